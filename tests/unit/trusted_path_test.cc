// daemon/trusted_path and daemon/socket_path: whom a path is trusted to, and what is done where it is nobody's.
#include "daemon/trusted_path.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <fstream>

#include "daemon/acting_as.h"
#include "daemon/resolve.h"
#include "daemon/socket_path.h"
#include "tests/unit/unit_test.h"

using namespace preforkd;

namespace {

bool is_root() { return geteuid() == 0; }

// Somebody else, who has nothing here.
EffectiveUser stranger() { return {5, 60, "stranger", true, {60}}; }

std::string distrust(const std::string& path) {
  const TrustedPath found = walk_trusted(path);
  return found.error ? std::strerror(found.error) : found.untrusted;
}

void make_folder(const std::string& path, mode_t mode, uid_t owner = geteuid()) {
  CU_ASSERT_EQUAL_FATAL(mkdir(path.c_str(), 0755), 0);
  CU_ASSERT_EQUAL_FATAL(chmod(path.c_str(), mode), 0);
  if (is_root()) CU_ASSERT_EQUAL_FATAL(chown(path.c_str(), owner, static_cast<gid_t>(-1)), 0);
}

// For others to get to what is in it.
void open_up(const unit::Folder& folder) { chmod((folder / "").c_str(), 0755); }

void write_file(const std::string& path, mode_t mode = 0644) {
  std::ofstream(path) << "text";
  CU_ASSERT_EQUAL_FATAL(chmod(path.c_str(), mode), 0);
}

std::string text_of(int fd) {
  char text[64];
  const ssize_t n = read(fd, text, sizeof text);
  return std::string(text, n > 0 ? static_cast<size_t>(n) : 0);
}

void folders() {
  unit::Folder folder;
  const std::string own = folder / "own", open_to_all = folder / "open", group = folder / "group",
                    sticky = folder / "sticky";
  make_folder(own, 0755);
  make_folder(own + "/deep", 0700);
  make_folder(open_to_all, 0777);
  make_folder(open_to_all + "/deep", 0755);
  make_folder(group, 0775);
  make_folder(sticky, 01777);
  CU_ASSERT(unit::same_text(distrust(own + "/deep/../deep//./x"), ""));
  CU_ASSERT(unit::same_text(distrust(sticky + "/x"), ""));
  CU_ASSERT(unit::same_text(distrust(group + "/x"), group + " may be written to by others"));
  CU_ASSERT(unit::same_text(distrust(open_to_all + "/deep/x"),
                            open_to_all + " may be written to by others"));
  CU_ASSERT(unit::same_text(distrust(own + "/missing/x"), "No such file or directory"));
  write_file(own + "/file");
  CU_ASSERT(unit::same_text(distrust(own + "/file/x"), "Not a directory"));
  CU_ASSERT(walk_trusted(sticky + "/x").is_shared && !walk_trusted(own + "/x").is_shared);
  // What was found is that folder, whatever has its name now.
  const TrustedPath found = walk_trusted(own + "/deep/x");
  CU_ASSERT_FATAL(found.is_trusted());
  CU_ASSERT(unit::same_text(found.name, "x"));
  struct stat held {
  }, named{};
  CU_ASSERT(fstat(found.folder.get(), &held) == 0 && stat((own + "/deep").c_str(), &named) == 0);
  CU_ASSERT_EQUAL(held.st_ino, named.st_ino);
  if (!is_root()) return;
  make_folder(folder / "theirs", 0755, 5);
  make_folder(folder / "theirs/ours", 0755);
  CU_ASSERT(unit::same_text(distrust(folder / "theirs/ours/x"),
                            (folder / "theirs") + " belongs to uid 5"));
}

void links() {
  unit::Folder folder;
  const std::string own = folder / "own", open_to_all = folder / "open", sticky = folder / "sticky";
  make_folder(own, 0755);
  make_folder(open_to_all, 0777);
  make_folder(sticky, 01777);
  auto link = [](const std::string& target, const std::string& at) {
    CU_ASSERT_EQUAL_FATAL(symlink(target.c_str(), at.c_str()), 0);
  };
  link("own", folder / "relative");
  link(own, folder / "absolute");
  link("open", folder / "to-open");
  link(own, open_to_all + "/link");
  link(own, sticky + "/link");
  link("loop", folder / "loop");
  for (const char* good : {"relative/x", "absolute/x", "relative/../absolute/x", "sticky/link/x"})
    CU_ASSERT(unit::same_text(distrust(folder / good), ""));
  const std::string reason = open_to_all + " may be written to by others";
  CU_ASSERT(unit::same_text(distrust(folder / "to-open/x"), reason));
  CU_ASSERT(unit::same_text(distrust(open_to_all + "/link/x"), reason));
  CU_ASSERT(unit::same_text(distrust(folder / "loop/x"), "Too many levels of symbolic links"));
  // The last element is not looked at.
  CU_ASSERT(unit::same_text(distrust(folder / "loop"), ""));
  if (!is_root()) return;
  link(own, sticky + "/theirs");
  CU_ASSERT_EQUAL(lchown((sticky + "/theirs").c_str(), 5, 60), 0);
  CU_ASSERT(unit::same_text(distrust(sticky + "/theirs/x"), sticky + "/theirs belongs to uid 5"));
}

void files() {
  unit::Folder folder;
  make_folder(folder / "open", 0777);
  make_folder(folder / "sticky", 01777);
  for (const char* name : {"file", "open/file", "sticky/file"}) write_file(folder / name);
  write_file(folder / "writable", 0666);
  CU_ASSERT_EQUAL_FATAL(symlink("file", (folder / "link").c_str()), 0);
  CU_ASSERT_EQUAL_FATAL(symlink("open/file", (folder / "astray").c_str()), 0);
  CU_ASSERT_EQUAL_FATAL(mkfifo((folder / "pipe").c_str(), 0600), 0);
  std::string reason;
  for (const char* good : {"file", "link"}) {
    UniqueFd file = open_trusted(folder / good, reason);
    CU_ASSERT_FATAL(file.is_open());
    CU_ASSERT(unit::same_text(text_of(file.get()), "text"));
    CU_ASSERT(fcntl(file.get(), F_GETFD) & FD_CLOEXEC);
  }
  const struct {
    const char *name, *reason;
  } kBad[] = {{"open/file", "@/open may be written to by others"},
              {"astray", "@/open may be written to by others"},
              {"sticky/file", "the folder of @/sticky/file may be written to by others"},
              {"writable", "@/writable may be written to by others"},
              {"pipe", "@/pipe is no file"},
              {"open", "@/open is no file"},
              {"missing", "@/missing: No such file or directory"}};
  for (const auto& bad : kBad) {
    CU_ASSERT_FALSE(open_trusted(folder / bad.name, reason).is_open());
    std::string wanted = bad.reason;
    wanted.replace(wanted.find('@'), 2, folder / "");
    CU_ASSERT(unit::same_text(reason, wanted));
  }
  if (!is_root()) return;
  CU_ASSERT_EQUAL(chown((folder / "file").c_str(), 5, 60), 0);
  CU_ASSERT_FALSE(open_trusted(folder / "link", reason).is_open());
  CU_ASSERT(unit::same_text(reason, (folder / "file") + " belongs to uid 5"));
}

// --- with another user's rights ------------------------------------------------------------------

void acts_and_is_itself_again() {
  if (!is_root()) return;
  unit::Folder folder;
  open_up(folder);
  make_folder(folder / "secret", 0700);
  make_folder(folder / "theirs", 0700, 5);
  auto make = [&](const char* name) {
    return UniqueFd(open((folder / name).c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600)).is_open();
  };
  CU_ASSERT_EQUAL(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
  {
    const ActingAs rights(stranger());
    CU_ASSERT_FALSE(make("secret/file"));
    CU_ASSERT_TRUE(make("theirs/file"));
  }
  CU_ASSERT_TRUE(make("secret/file"));
  struct stat s {};
  CU_ASSERT_EQUAL(stat((folder / "theirs/file").c_str(), &s), 0);
  CU_ASSERT(s.st_uid == 5 && s.st_gid == 60);
  CU_ASSERT_EQUAL(stat((folder / "secret/file").c_str(), &s), 0);
  CU_ASSERT_EQUAL(s.st_uid, 0);
  CU_ASSERT_EQUAL(prctl(PR_GET_DUMPABLE), 0);
  int death_signal = 0;
  CU_ASSERT(prctl(PR_GET_PDEATHSIG, &death_signal) == 0 && death_signal == SIGKILL);
  prctl(PR_SET_PDEATHSIG, 0);
  prctl(PR_SET_DUMPABLE, 1);
}

UniqueFd unix_socket() { return UniqueFd(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)); }

std::string error_of_binding(SocketPath& path) {
  try {
    const UniqueFd fd = unix_socket();
    path.bind(fd.get(), resolve({ListenAddress::Kind::kUnix, "", 0, path.path()}));
    return "";
  } catch (const std::exception& e) {
    return e.what();
  }
}

bool is_there(const std::string& path) {
  struct stat s {};
  return lstat(path.c_str(), &s) == 0;
}

// In the user's folder the socket is the user's; it is replaced, known again and removed as such.
void sockets_of_a_user() {
  if (!is_root()) return;
  unit::Folder folder;
  open_up(folder);
  make_folder(folder / "theirs", 0700, 5);
  const std::string path = folder / "theirs/sock";
  const mode_t before = umask(077);          // whatever it is, everybody may connect
  for (int round = 0; round < 2; ++round) {  // the second replaces a stale one
    SocketPath socket(path, stranger());
    CU_ASSERT(unit::same_text(error_of_binding(socket), ""));
    struct stat s {};
    CU_ASSERT_EQUAL(stat(path.c_str(), &s), 0);
    CU_ASSERT(s.st_uid == 5 && (s.st_mode & 0777) == 0666);
    CU_ASSERT_EQUAL(umask(077), 077);
  }
  umask(before);
  SocketPath found(path, stranger());
  CU_ASSERT_TRUE(found.recognise(-1));
  // Over an upgrade; and another that took its name is left alone.
  SocketPath restored(found.record());
  CU_ASSERT_EQUAL(rename(path.c_str(), (path + ".old").c_str()), 0);
  SocketPath other(path, stranger());
  CU_ASSERT(unit::same_text(error_of_binding(other), ""));
  restored.remove();
  CU_ASSERT_TRUE(is_there(path));
  other.remove();
  CU_ASSERT_FALSE(is_there(path));
}

void says_whose_folder_it_is() {
  if (!is_root()) return;
  unit::Folder folder;
  open_up(folder);
  make_folder(folder / "others", 0755, 1);
  const std::string path = folder / "others/sock", others = folder / "others";
  SocketPath of_stranger(path, stranger()), of_nobody(path, {});
  CU_ASSERT(unit::same_text(
      error_of_binding(of_stranger),
      "bind unix:" + path + " as user stranger (" + others +
          " belongs to uid 1, so root makes no file there: let stranger write to the folder, or "
          "give it, and all above it, to root): Permission denied"));
  CU_ASSERT(unit::same_text(error_of_binding(of_nobody),
                            "bind unix:" + path + ": " + others +
                                " belongs to uid 1, and root uses folders only that nobody else "
                                "can change: take another, or give it, and all above it, to root"));
  CU_ASSERT_FALSE(is_there(path));
}

// In a sticky folder, another's stale socket is another's matter.
void others_sockets_in_a_sticky_folder() {
  if (!is_root()) return;
  unit::Folder folder;
  make_folder(folder / "sticky", 01777);
  SocketPath socket(folder / "sticky/sock", stranger());
  CU_ASSERT(unit::same_text(error_of_binding(socket), ""));
  CU_ASSERT(unit::same_text(error_of_binding(socket), ""));  // its own is stale
  CU_ASSERT_EQUAL(chown(socket.path().c_str(), 1, 1), 0);
  CU_ASSERT(error_of_binding(socket).ends_with("Address already in use"));
  socket.remove();
  CU_ASSERT_TRUE(is_there(socket.path()));
}

// Made by a step that was late: found by the next.
void socket_that_is_bound_already() {
  unit::Folder folder;
  SocketPath socket(folder / "sock", {});
  const UniqueFd fd = unix_socket();
  const SocketAddress address = resolve({ListenAddress::Kind::kUnix, "", 0, socket.path()});
  CU_ASSERT_EQUAL(bind(fd.get(), address.get(), address.length), 0);
  socket.bind(fd.get(), address);
  CU_ASSERT_TRUE(socket.is_ours() && socket.is_there().value_or(false));
  CU_ASSERT_EQUAL(unlink(socket.path().c_str()), 0);
  CU_ASSERT_FALSE(socket.is_there().value_or(true));
  std::string error;
  try {
    socket.bind(fd.get(), address);
  } catch (const std::exception& e) {
    error = e.what();
  }
  CU_ASSERT(error.ends_with(": it was bound, and its file is gone"));
}

void steps_in_a_child() {
  const UniqueFd kept = unix_socket();
  const FileId found = in_file_system("step", "/a", kept.get(), [&] {
    const bool has_it = fcntl(kept.get(), F_GETFD) >= 0;
    return FileId{static_cast<uint64_t>(getppid()), has_it ? 1u : 0u};
  });
  CU_ASSERT(found == (FileId{static_cast<uint64_t>(getpid()), 1}));
  // No other descriptor but the one that it reports by.
  const FileId open = in_file_system("step", "/a", -1, [] {
    uint64_t count = 0;
    for (int fd = 0; fd < 1024; ++fd) count += fcntl(fd, F_GETFD) >= 0;
    return FileId{0, count};
  });
  CU_ASSERT_EQUAL(open.inode, 1);
  try {
    in_file_system("step", "/a", -1, []() -> FileId { throw SysError("look", EACCES); });
    CU_FAIL("it has thrown");
  } catch (const SysError& e) {
    CU_ASSERT(unit::same_text(e.what(), "look: Permission denied"));
    CU_ASSERT_EQUAL(e.error(), EACCES);
  }
  try {
    in_file_system("step", "/a", -1, []() -> FileId { _exit(1); });
    CU_FAIL("it has died");
  } catch (const std::runtime_error& e) {
    CU_ASSERT(unit::same_text(e.what(), "step: the process that was to do it has died"));
  }
}

bool gets_no_answer(const char* folder, const std::function<FileId()>& step) {
  try {
    in_file_system("step", folder, -1, step);
    return false;
  } catch (const NoAnswer&) {
    return true;
  }
}

// The next one in that folder does not begin, and others do.
void steps_that_hang() {
  const Nanoseconds began = monotonic_now();
  CU_ASSERT_TRUE(gets_no_answer("/hangs", [] {
    pause();
    return FileId{};
  }));
  CU_ASSERT_TRUE(monotonic_now() - began >= kFileStepLasts);
  CU_ASSERT_TRUE(gets_no_answer("/hangs", [] { return FileId{}; }));
  CU_ASSERT_FALSE(gets_no_answer("/other", [] { return FileId{}; }));
  CU_ASSERT_TRUE(gets_no_answer("/hangs", [] { return FileId{}; }));
}

}  // namespace

void add_trusted_path_tests() {
  static const unit::Test kTests[] = {
      {"folders", folders},
      {"links", links},
      {"files", files},
      {"acts as another, and is itself again", acts_and_is_itself_again},
      {"sockets in a user's folder", sockets_of_a_user},
      {"says whose folder it is", says_whose_folder_it_is},
      {"others' sockets in a sticky folder", others_sockets_in_a_sticky_folder},
      {"a socket that is bound already", socket_that_is_bound_already},
      {"steps in a child", steps_in_a_child},
      {"steps that hang", steps_that_hang},
  };
  unit::add_suite("trusted_path", kTests);
}
