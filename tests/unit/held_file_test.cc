// daemon/held_file: what is executed stays what it was, whatever is done to the file.
#include "daemon/held_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "daemon/launch.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;
using namespace preforkd::unit;

namespace {

namespace fs = std::filesystem;

// Two programs that behave differently, in a folder that is gone in the end.
struct Folder {
  Folder() {
    char name[] = "/tmp/held-XXXXXX";
    if (!mkdtemp(name)) throw SysError("mkdtemp", errno);
    path = name;
    fs::copy_file("/bin/true", file());
  }
  ~Folder() { fs::remove_all(path); }
  std::string file() const { return path + "/program"; }
  std::string path;
};

std::string text_of(const std::string& file) {
  std::ostringstream text;
  text << std::ifstream(file, std::ios::binary).rdbuf();
  return text.str();
}

void write_over(const std::string& file, const std::string& text) {
  std::ofstream(file, std::ios::binary | std::ios::trunc) << text;
}

int status_of(const HeldFile& held) {
  Launch what;
  what.executable = held.path();
  what.image = held.to_execute();
  what.argv = {"test"};
  return launch_and_wait(what, 10).status;
}

std::string error_of(const HeldFile& held) {
  try {
    held.to_execute();
  } catch (const std::exception& e) {
    return e.what();
  }
  return "(no error)";
}

void stays_what_it_was() {
  Folder folder;
  HeldFile held(folder.file());
  held.make_copy();
  CU_ASSERT_EQUAL(status_of(held), 0);
  write_over(folder.file(), text_of("/bin/false"));
  CU_ASSERT_EQUAL(status_of(held), 0);
  CU_ASSERT_NOT_EQUAL(status_of(HeldFile(folder.file())), 0);
  write_over(folder.file(), "");
  CU_ASSERT_EQUAL(status_of(held), 0);
  fs::copy_file("/bin/false", folder.path + "/other");
  fs::rename(folder.path + "/other", folder.file());
  CU_ASSERT_EQUAL(status_of(held), 0);
  fs::remove(folder.file());
  CU_ASSERT_EQUAL(status_of(held), 0);
}

// As somebody does who does not want that to be seen.
void same_size_and_time() {
  Folder folder;
  HeldFile held(folder.file());
  held.make_copy();
  struct stat before {};
  CU_ASSERT_EQUAL(stat(folder.file().c_str(), &before), 0);
  std::string other = text_of("/bin/false");
  other.resize(static_cast<size_t>(before.st_size));
  write_over(folder.file(), other);
  const timespec times[] = {before.st_atim, before.st_mtim};
  CU_ASSERT_EQUAL(utimensat(AT_FDCWD, folder.file().c_str(), times, 0), 0);
  CU_ASSERT_EQUAL(status_of(held), 0);
}

// Over an exec.
void from_its_record() {
  Folder folder;
  HeldFile held(folder.file());
  held.make_copy();
  HeldFileRecord record = held.record();
  record.file = fcntl(record.file, F_DUPFD_CLOEXEC, 3);
  record.copy = fcntl(record.copy, F_DUPFD_CLOEXEC, 3);
  const HeldFile resumed(record);
  CU_ASSERT_EQUAL(resumed.to_execute(), record.file);
  write_over(folder.file(), "");
  CU_ASSERT_EQUAL(resumed.to_execute(), record.copy);
  CU_ASSERT_EQUAL(status_of(resumed), 0);
}

// Nobody has more of the copy than of the file: who may not read it may not look into its process either.
void has_the_rights_of_the_file() {
  Folder folder;
  chmod(folder.file().c_str(), 0711);
  HeldFile held(folder.file());
  held.make_copy();
  struct stat copy {};
  CU_ASSERT_EQUAL(fstat(held.copy(), &copy), 0);
  CU_ASSERT_EQUAL(copy.st_mode & 0777u, 0511u);
  CU_ASSERT_EQUAL(fcntl(held.copy(), F_GET_SEALS),
                  F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
}

void what_cannot_be_had() {
  CU_ASSERT(same_text(error_of(HeldFile("/nowhere/program")),
                      "start /nowhere/program: No such file or directory"));
  Folder folder;
  for (const std::string& text : {std::string(), text_of("/bin/true").substr(0, 5000)}) {
    write_over(folder.file(), text);
    HeldFile held(folder.file());
    std::string error = "(no error)";
    try {
      held.make_copy();
    } catch (const std::exception& e) {
      error = e.what();
    }
    CU_ASSERT(error.starts_with(folder.file() + ": ") && error.ends_with("cut short"));
    CU_ASSERT_EQUAL(held.copy(), -1);
  }
}

}  // namespace

void add_held_file_tests() {
  add_suite("held_file", {{"stays what it was", stays_what_it_was},
                          {"same size and time", same_size_and_time},
                          {"from its record", from_its_record},
                          {"has the rights of the file", has_the_rights_of_the_file},
                          {"what cannot be had", what_cannot_be_had}});
}
