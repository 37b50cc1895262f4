// preforkd: the daemon's start-up sequence.
#include <getopt.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/process_title.h"
#include "base/surroundings.h"
#include "base/undumpable.h"
#include "base/version.h"
#include "conf/print.h"
#include "daemon/daemon.h"
#include "daemon/loader.h"
#include "daemon/signal_scope.h"
#include "daemon/start_signals.h"
#include "systemd/inherited.h"
#include "systemd/notify.h"

namespace preforkd {
namespace {

constexpr char kDefaultFile[] = "/etc/preforkd/preforkd.conf";
constexpr char kUsage[] =
    "usage: preforkd [-c FILE] [-t] [-T] [--runtime-dir DIR] [--version] [--help]\n"
    "\n"
    "A preforking TCP server. Runs in the foreground; stop it with ^C or SIGTERM.\n"
    "\n"
    "  -c FILE            the configuration (default: /etc/preforkd/preforkd.conf if it is\n"
    "                     there, else a built-in one: echo on 127.0.0.1:7007)\n"
    "  -t                 check the configuration and exit\n"
    "  -T                 print the configuration as it will be used and exit\n"
    "  --runtime-dir DIR  where the control socket is made\n"
    "\n"
    "Exit status: 0; 64 usage; 78 configuration; 71 system; 70 internal.\n";

struct Options {
  std::string file, runtime_dir;
  bool check = false, print = false, help = false, version = false;
  // Given by preforkd itself, for an upgrade in place: daemon/takeover.h.
  int takeover = -1, rehearse = -1;
  int load = -1;  // for a reload: daemon/loader.h
  bool crashed = false;
};

// Each sets one of these: a flag, a number, or a text.
struct OptionRow {
  int code;
  bool Options::*flag = nullptr;
  int Options::*number = nullptr;
  std::string Options::*text = nullptr;
};
enum { kRuntimeDir = 256, kVersionOption, kTakeover, kRehearse, kCrashed, kLoad };
constexpr OptionRow kOptions[] = {
    {.code = 'c', .text = &Options::file},
    {.code = 't', .flag = &Options::check},
    {.code = 'T', .flag = &Options::print},
    {.code = 'h', .flag = &Options::help},
    {.code = kRuntimeDir, .text = &Options::runtime_dir},
    {.code = kVersionOption, .flag = &Options::version},
    {.code = kTakeover, .number = &Options::takeover},
    {.code = kRehearse, .number = &Options::rehearse},
    {.code = kLoad, .number = &Options::load},
    {.code = kCrashed, .flag = &Options::crashed},
};

bool parse_options(int argc, char** argv, Options& options) {
  static const option kLong[] = {{"runtime-dir", required_argument, nullptr, kRuntimeDir},
                                 {"version", no_argument, nullptr, kVersionOption},
                                 {"help", no_argument, nullptr, 'h'},
                                 {"takeover", required_argument, nullptr, kTakeover},
                                 {"rehearse", required_argument, nullptr, kRehearse},
                                 {"load", required_argument, nullptr, kLoad},
                                 {"crashed", no_argument, nullptr, kCrashed},
                                 {}};
  for (int o; (o = getopt_long(argc, argv, "c:tTh", kLong, nullptr)) != -1;) {
    const auto* row = std::find_if(std::begin(kOptions), std::end(kOptions),
                                   [o](const OptionRow& r) { return r.code == o; });
    if (row == std::end(kOptions)) return false;
    if (row->flag) options.*row->flag = true;
    if (row->number) options.*row->number = std::atoi(optarg);
    if (row->text) options.*row->text = optarg;
  }
  if (optind < argc) std::fprintf(stderr, "preforkd: unexpected argument \"%s\"\n", argv[optind]);
  return optind == argc;
}

// The file that is used without -c; "": the built-in default.
std::string file_to_use(const Options& options) {
  if (!options.file.empty()) return options.file;
  return access(kDefaultFile, F_OK) == 0 ? kDefaultFile : "";
}

// A start that waits for a directory service, or a resolver, for ever: it ends, and says for whom.
constexpr unsigned kStepSeconds = 30;
constexpr Nanoseconds kTimeForCheck = 3 * kCheckSeconds * kSecond;
std::string step_text;

void on_late_step(int) {
  [[maybe_unused]] ssize_t ignored = write(STDERR_FILENO, step_text.data(), step_text.size());
  _exit(static_cast<int>(ExitCode::kSystem));
}

void begin_step(const std::string& what) {
  alarm(0);
  step_text =
      "preforkd: error: " + what + ": no answer within " + std::to_string(kStepSeconds) + " s\n";
  signal(SIGALRM, on_late_step);
  alarm(kStepSeconds);
}

void end_steps() {
  alarm(0);
  signal(SIGALRM, SIG_DFL);
}

// Everything that is wrong, in the settings and in what they name, in one go. What is wrong with what a pool names is
// its user's doing, maybe: to a start (not `is_strict`) it is that pool's trouble, as long as another pool is well.
LoadedSettings load_and_check(const std::string& file, const Paths& paths, bool is_strict,
                              std::vector<std::string>& troubles) {
  std::vector<std::string> errors;
  LoadedSettings loaded = load(file, errors, begin_step);
  end_steps();  // each check has a limit of its own, which systemd is to wait for
  auto ask_for_time = [](const std::string&) { Notify().extend_timeout(kTimeForCheck); };
  troubles = check_handlers(paths, loaded, {}, ask_for_time, is_strict);
  auto is_well = [](const std::string& trouble) { return trouble.empty(); };
  if (errors.empty() && !is_strict && std::any_of(troubles.begin(), troubles.end(), is_well))
    return loaded;
  for (const std::string& trouble : troubles)
    if (!is_well(trouble)) errors.push_back(trouble);
  if (!errors.empty()) throw ConfigError(errors);
  return loaded;
}

void name_process(int argc, char** argv, const Settings& settings) {
  reserve_process_title(argc, argv);
  set_process_title("preforkd: daemon", "preforkd");
  LogLevel level = LogLevel::kInfo;
  log_level_from_name(settings.log_level, level);
  set_log_level(level);
}

void warn_of_readable(const Paths& paths) {
  for (const std::string& file :
       readable_executables({paths.supervisor->path(), paths.static_supervisor->path(),
                             paths.control->path(), paths.log->path()}))
    log_warning(
        file +
        " may be read by pools' users, who can then look into it as it starts: chmod 711 it");
}

// Who may signal whom, if that is more than it should be; else "".
std::string reach_of_signals(const LoadedSettings& loaded) {
  std::set<uid_t> users;
  for (const auto& user : loaded.users)
    if (user) users.insert(user->uid);
  const bool is_root = geteuid() == 0;
  const std::string reason = why_signals_reach_out();
  if (reason.empty() || (is_root && users.size() == loaded.users.size())) return "";
  return "processes of pools of one user can signal each other" +
         std::string(is_root ? "" : ", and preforkd") + ": " + reason;
}

int rehearse_takeover(int document) {
  try {
    rehearse(read_record(document));
    return std::puts(kCanTakeOver) < 0 ? 1 : 0;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}

// The start-up of an image that takes over from another in this process.
int take_over(const Options& options, int argc, char** argv) {
  const int document = options.takeover;
  DaemonRecord record = read_record(document);
  if (options.crashed) record.failure = "the new binary crashed, ended or hung when it took over";
  const bool is_new = record.failure.empty();
  if (is_new) arm_fall_back(record, document, argv);
  std::unique_ptr<Daemon> daemon;
  try {
    std::vector<std::string> errors;
    LoadedSettings loaded = settings_in_force(record, errors);
    if (!errors.empty()) throw ConfigError(errors);
    has_taken_a_step();
    name_process(argc, argv, loaded.settings);
    Paths paths = Paths::find(record.runtime);
    paths.daemon = record.called;
    is_new ? paths.keep_copies() : paths.resume(record.held);
    has_taken_a_step();
    daemon = std::make_unique<Daemon>(paths, record.file, std::move(loaded));
    daemon->catch_signals();
    daemon->take_over(record);
  } catch (const std::exception& e) {
    if (is_new) fall_back(record, e.what(), document, argv);
    throw;
  }
  disarm_fall_back();
  keep_over_exec(record, false);  // not before: the old image may need them once more
  if (is_new)
    close_held(record);
  else
    close(record.old_image);
  close(document);
  daemon->run();
  return 0;
}

// What is no start of a daemon: the exit status, once it is done.
std::optional<int> do_otherwise(const Options& options, int argc, char** argv) {
  if (options.help) return std::fputs(kUsage, stdout), 0;
  if (options.version) return std::printf("preforkd %s\n", kVersion), 0;
  if (options.takeover >= 0) return take_over(options, argc, argv);
  end_at({SIGTERM, SIGQUIT, SIGINT});
  if (options.check || options.print || options.rehearse >= 0 || options.load >= 0)
    end_at({SIGHUP});
  else
    signal(SIGPIPE, SIG_IGN);  // whoever reads what it says of its start
  if (options.rehearse >= 0) return rehearse_takeover(options.rehearse);
  if (options.load < 0) return std::nullopt;
  set_log_sink(log_to_stderr_at_once);
  return load_for_daemon(options.file, options.load);
}

int run(int argc, char** argv) {
  // 1. What is asked.
  Options options;
  if (!parse_options(argc, argv, options)) {
    std::fputs(kUsage, stderr);
    return static_cast<int>(ExitCode::kUsage);
  }
  if (const auto status = do_otherwise(options, argc, argv)) return *status;
  // 2. Where things are.
  Paths paths = Paths::find(options.runtime_dir);
  // 3. The configuration, checked whole before anything listens.
  std::string file = file_to_use(options);
  std::vector<std::string> troubles;
  LoadedSettings loaded = load_and_check(file, paths, options.check || options.print, troubles);
  if (options.print) return std::fputs(print_settings(loaded.settings).c_str(), stdout), 0;
  if (options.check) return std::printf("%s: good\n", loaded.file.c_str()), 0;
  look_up_hosts(loaded, {}, begin_step);
  end_steps();
  // 4. Signals.
  name_process(argc, argv, loaded.settings);
  const std::string read_from = loaded.file, reach = reach_of_signals(loaded);
  paths.keep_copies();
  Daemon daemon(paths, file, std::move(loaded));
  daemon.catch_signals();
  // 5. The log.
  daemon.start_log();
  log_info("preforkd " + std::string(kVersion) + ", configuration: " + read_from);
  warn_of_readable(paths);
  if (!reach.empty()) log_notice(reach);
  // 6. The runtime directory.
  make_runtime_directory(paths.runtime);
  // 7. Sockets: inherited or our own.
  daemon.open_sockets(take_inherited_sockets(), troubles);
  // 8. A supervisor for each pool.
  daemon.start_pools();
  // 9. Control.
  daemon.start_control();
  // 10. Until everything has ended.
  const bool good = daemon.run();
  return good ? 0 : static_cast<int>(ExitCode::kSystem);
}

int complain(ExitCode code, const std::exception& e) {
  log_error(e.what());
  return static_cast<int>(code);
}

}  // namespace
}  // namespace preforkd

int main(int argc, char** argv) {
  using namespace preforkd;
  become_undumpable();
  put_surroundings_right(kSignalsOfDaemon);
  have_own_files();
  try {
    return run(argc, argv);
  } catch (const ConfigError& e) {
    for (const std::string& line : e.lines()) log_error(line);
    return static_cast<int>(ExitCode::kConfig);
  } catch (const std::logic_error& e) {
    return complain(ExitCode::kInternal, e);
  } catch (const std::exception& e) {
    return complain(ExitCode::kSystem, e);
  }
}
