// Upgrade in place: the state of a daemon as a document that the next image of the same process takes over.
//
//   running ──USR2──▶ rehearsal (a child: the new binary reads the document) ──it can──▶ exec ──▶ running
//      ▲                    └─ it cannot: nothing has happened ─┐            └─ it fails, or crashes ─┐
//      └────────────────────────────────────────────────────────┘◀── exec of the old binary ──────────┘
//
// Children stay children, descriptors stay open, signals stay blocked and pending over the exec: pools serve on,
// and what dies meanwhile is reaped by whoever runs then. The document names descriptors by number; it holds
// everything that the daemon cannot ask of somebody else again.
//
// A SIGKILL at any step is that of the daemon: supervisors drain, systemd starts the next one.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <exception>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/fd.h"
#include "base/limits.h"
#include "conf/load.h"
#include "daemon/held_file.h"
#include "ipc/protocol.h"

namespace preforkd {

// Raised when the document changes its meaning: images of different numbers do not take over from each other, nor do
// those of different kProtocol (ipc/protocol.h). The layout of shared memory may be another: supervisors go on with
// theirs, which the daemon never looks at, and control passes over segments that it cannot read.
inline constexpr uint32_t kTakeoverFormat = 9;

// What a rehearsal says that went well. A status of 0 is not enough: /bin/true has that, too.
inline constexpr char kCanTakeOver[] = "preforkd: can take over";

// Of the file of a Unix socket (daemon/socket_path.h).
struct SocketPathRecord {
  std::string path;
  EffectiveUser user{};
  uint64_t device = 0, inode = 0;
};

struct ListenerRecord {
  int fd = -1;
  std::string wanted, stored_as;
  SocketPathRecord path;
  bool inherited = false;
  uint32_t uid = 0;
  std::string awaited;  // the address that it is to listen on when that can be had; "": it listens
  bool bound = true;
  uint32_t scope = 0;  // of an IPv6 address that is awaited: which interface
};

// A pipe to preforkd-log (daemon/log_link.h).
struct LogPipeRecord {
  uint32_t id = 0;
  int read_end = -1;
};

struct LogLineRecord {
  int level = 0, worker = 0;
  uint32_t event = 0, lost = 0;  // lost: lines before this one
  std::string pool, text;
};

struct LogRecord {
  int pid = 0, news = -1, pongs = -1;
  uint32_t next_pipe = 1, lost = 0;
  bool stopped = false;
  std::vector<LogLineRecord> waiting;  // nobody has heard them yet
};

struct GenerationRecord {
  uint32_t number = 0, capacity = 0, workers = 0, next_order = 1;
  int pid = 0, orders = -1, reports = -1, segment = -1;  // reports -1: the supervisor is gone
  uint32_t uid = 0;
  std::vector<int> claimed;
  std::vector<uint64_t> inodes;  // of its sockets, when it was launched
  std::vector<uint32_t> success;
  std::map<int, bool> ended_programs;
  int state = 0;
  bool on_trial = false, preloaded = false, quiet = false, was_told = false, stopped = false;
  Nanoseconds start_until = kNever, drain_until = kNever, orphans_until = kNever;
  std::vector<size_t> sockets;  // into DaemonRecord::listeners
  LogPipeRecord log;
};

struct PoolRecord {
  std::string name, reason;
  std::vector<size_t> listeners, dropped;
  Limits limits, limits_before;
  Nanoseconds revert_at = 0;  // 0: no revert is due
  Nanoseconds launched_at = 0, pause = 0;
  int state = 0;
  uint32_t next_generation = 1, capacity = 0;
  bool goes_without = false;
  std::vector<uint8_t> base;
  std::vector<GenerationRecord> generations;
};

struct LinkRecord {
  bool web = false;
  int pid = 0, news = -1, requests = -1, listen = -1;
  Nanoseconds started_at = 0;
  bool stopped = false;
  uint32_t next_ticket = 1;
  std::map<uint32_t, uint32_t> unanswered;  // ticket to the asker's own number
  LogPipeRecord log;
};

struct DaemonRecord {
  uint32_t format = kTakeoverFormat, protocol = kProtocol, layout = 0;
  std::string version;
  std::string called;  // Paths::daemon
  int old_image = -1;  // the binary that runs now, kept open
  std::vector<HeldFileRecord>
      held;               // likewise, what it executes: for the old image, should it go on
  std::string failure;    // why the new image gave up; then the old one is running again
  uint32_t asked_by = 0;  // the ticket of the request that is to be answered; 0: a signal asked
  std::string file;       // the configuration's, "" = built-in
  std::string runtime;    // RUNTIME_DIR
  std::string settings;   // as print_settings() has them: those in force
  std::vector<EffectiveUser> users;  // of its pools
  EffectiveUser control_user{}, log_user{};
  int64_t control_gid = -1;
  SocketPathRecord control_path;
  Nanoseconds started = 0;
  uint64_t reloads = 0, reloads_asked = 0;
  std::string refusal;  // of the last reload
  bool said_ready = false;
  std::vector<int> strangers;
  std::vector<ListenerRecord> listeners;
  std::vector<ListenerRecord> unused;  // inherited ones that no pool uses; wanted: the name
  std::vector<PoolRecord> pools;       // in the order of the settings
  std::vector<LinkRecord> links;
  LogRecord log;
};

// As a document on a descriptor of its own, and back. Throw SysError, std::runtime_error.
std::string to_json(const DaemonRecord& record);
DaemonRecord record_from_json(const std::string& text);
DaemonRecord read_record(int fd);

// The settings in force, with everything that was looked up for them. Adds to `errors` what is wrong with them: it
// was another version that wrote them.
LoadedSettings settings_in_force(const DaemonRecord& record, std::vector<std::string>& errors);

// Every descriptor that the record names: kept over an exec, or not.
void keep_over_exec(const DaemonRecord& record, bool keep);
// Those that only the image before had use for, which will not go on.
void close_held(const DaemonRecord& record);

// Descriptors that something is about to take over. Should it fail, and close them on its way, they are put back in
// their places: the image before needs them once more.
class PutBackOnFailure {
 public:
  // The image before, which has taken over again, has none to fall back to.
  PutBackOnFailure(const DaemonRecord& record, const std::vector<int>& fds);
  ~PutBackOnFailure();
  PutBackOnFailure(const PutBackOnFailure&) = delete;
  PutBackOnFailure& operator=(const PutBackOnFailure&) = delete;

 private:
  const int exceptions_before_ = std::uncaught_exceptions();
  std::vector<std::pair<int, UniqueFd>> copies_;
};

// What `preforkd --rehearse FD` does in a child, which then says kCanTakeOver on its output. Throws the reason why it
// could not.
void rehearse(const DaemonRecord& record);

// In the image that takes over, from its first step until disarm_fall_back(): a crash (SIGSEGV, SIGABRT, ...), an
// exit() or a second without a step (more for long settings) execute the old image again, with the same document: until the end of it there is no
// loop that would do what is asked.
void arm_fall_back(const DaemonRecord& record, int document, char** argv);
void has_taken_a_step();
void disarm_fall_back();
// The same when it fails with a reason. Returns only if even that fails.
void fall_back(DaemonRecord record, const std::string& reason, int document, char** argv);

}  // namespace preforkd
