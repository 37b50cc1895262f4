// git clone of a real repository from git-daemon as the program of a pool, twenty at once.
#include <filesystem>
#include <fstream>

#include "tests/system/conditions.h"
#include "tests/system/suites.h"

namespace preforkd::system_test {
namespace {

constexpr int kCommits = 1200, kClones = 20;

// Each commit changes one of forty files and adds to a log, so that there are deltas to make.
void write_history(const std::string& path) {
  std::ofstream out(path);
  std::string log;
  for (int i = 1; i <= kCommits; ++i) {
    const std::string message = "Change number " + std::to_string(i);
    const std::string text =
        message + "\n" +
        std::string(static_cast<size_t>(i * 37 % 2000), static_cast<char>('a' + i % 26));
    log += message + "\n";
    out << "commit refs/heads/main\ncommitter Test <test@example.org> " << 1'700'000'000 + i
        << " +0000\ndata " << message.size() << "\n"
        << message << "\n"
        << "M 100644 inline folder" << i % 7 << "/file" << i % 40 << "\ndata " << text.size()
        << "\n"
        << text << "\n";
    if (i % 10 == 0) out << "M 100644 inline log\ndata " << log.size() << "\n" << log << "\n";
  }
}

std::string output_of(const std::vector<std::string>& argv) {
  Outcome outcome = run(argv, 60);
  if (outcome.code != 0) throw Failure(argv[0] + ": " + outcome.err);
  return outcome.out;
}

void twenty_clones() {
  TestFolder folder("/dev/shm");
  const std::string base = folder.file("served"), repository = base + "/repo",
                    history = folder.file("history");
  std::filesystem::create_directory(base);
  write_history(history);
  output_of({"git", "init", "-q", "--bare", "-b", "main", repository});
  output_of({"sh", "-c", "git -C \"$0\" fast-import --quiet <\"$1\"", repository, history});
  const std::string head = output_of({"git", "-C", repository, "rev-parse", "main"});
  give_to_nobody(base);

  Server server({PoolText{.name = "git",
                          .serves = "program = [ \"/usr/lib/git-core/git-daemon\", \"--inetd\", "
                                    "\"--export-all\", \"--base-path=" +
                                    base + "\" ];",
                          .workers = "min = 4; max = 64;",
                          .more = is_root() ? "user = \"nobody\";" : ""}});
  const std::string url = "git://" + server.address("git") + "/repo";
  std::vector<std::vector<std::string>> clones, checks;
  for (int i = 0; i < kClones; ++i) {
    const std::string copy = folder.file("clone" + std::to_string(i));
    clones.push_back({"git", "clone", "-q", url, copy});
    checks.push_back({"git", "-C", copy, "fsck", "--full", "--strict", "--no-progress"});
  }
  run_at_once(clones, folder, 60);
  run_at_once(checks, folder, 60);
  for (int i = 0; i < kClones; ++i) {
    const std::string copy = folder.file("clone" + std::to_string(i));
    expect_equal("git fsck says", file_text(folder.file(std::to_string(i) + ".out")), "");
    expect_equal("the head of a clone", output_of({"git", "-C", copy, "rev-parse", "HEAD"}), head);
    expect_equal("its commits", output_of({"git", "-C", copy, "rev-list", "--count", "HEAD"}),
                 std::to_string(kCommits) + "\n");
  }
  expect_exact_figures(server, "git", kClones);
  expect_equal("failed", server.pool("git")["connections"]["failed"].get<int>(), 0);
}

}  // namespace

Suite git_suite() { return {"git", {{"twenty clones at once", twenty_clones}}}; }

}  // namespace preforkd::system_test
