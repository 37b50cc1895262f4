// rsync's own daemon as the program of a pool: a tree copied eight times at once, byte for byte.
#include <filesystem>
#include <fstream>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr int kFiles = 2000, kCopies = 8;

// Sizes from nothing to some 60 kB, and bytes that no compression or delta makes go away.
void grow_tree(const std::string& root) {
  uint64_t random = 88172645463325252;
  for (int i = 0; i < kFiles; ++i) {
    const std::string folder = root + "/" + std::to_string(i % 13) + "/" + std::to_string(i % 50);
    std::filesystem::create_directories(folder);
    std::string text;
    for (size_t size = static_cast<size_t>(i) * 7919 % (i % 100 ? 6'000 : 60'000);
         text.size() < size;) {
      random ^= random << 13, random ^= random >> 7, random ^= random << 17;
      text.append(reinterpret_cast<const char*>(&random), sizeof random);
    }
    std::ofstream(folder + "/file " + std::to_string(i), std::ios::binary) << text;
  }
}

void eight_copies() {
  TestFolder folder("/dev/shm");
  const std::string tree = folder.file("tree");
  grow_tree(tree);
  const std::string config = folder.write(
      "rsyncd.conf", "use chroot = no\nlog file = /dev/null\n[tree]\npath = " + tree + "\n");
  Server server({PoolText{
      .name = "rsync",
      .serves = "program = [ \"/usr/bin/rsync\", \"--daemon\", \"--config=" + config + "\" ];",
      .workers = "min = 2; max = 16;"}});
  const std::string url = "rsync://" + server.address("rsync") + "/tree/";
  std::vector<std::vector<std::string>> copies, checks;
  for (int i = 0; i < kCopies; ++i) {
    const std::string copy = folder.file("copy" + std::to_string(i));
    copies.push_back({"rsync", "-r", "-t", url, copy});
    checks.push_back({"diff", "-r", "-q", tree, copy});
  }
  run_at_once(copies, folder, 60);
  run_at_once(checks, folder, 60);
  expect_exact_figures(server, "rsync", kCopies);
  expect_equal("failed", server.pool("rsync")["connections"]["failed"].get<int>(), 0);
}

}  // namespace

Suite rsync_suite() { return {"rsync", {{"eight copies at once", eight_copies}}}; }

}  // namespace preforkd::system_test
