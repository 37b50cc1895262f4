// What the simulation has instead of preforkd's own: the ends of its ways for messages, its listen sockets, how a supervisor is
// launched, what a handler does. Everything that decides is preforkd's.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "daemon/generation.h"
#include "shm/mapping.h"
#include "supervisor/supervisor.h"
#include "tests/sim/kernel.h"

namespace preforkd::sim {

PrivateMemory memory_of_supervisor();
PrivateMemory memory_of_intake();

// How a handler behaves. Borrowed by all processes that have loaded it, by the name that it was added by.
struct Behaviour {
  bool has_start = true;
  Nanoseconds preload_time = 0, start_time = 0;
  Nanoseconds stop_time = 0;
  bool preload_fails = false;
  bool start_fails = false;    // with a status
  bool start_crashes = false;  // at its end
  bool start_hangs = false;
  bool crashes_when_idle = false;  // some milliseconds after its start
};
std::string add_handler(const Behaviour& behaviour);  // returns its name
Behaviour& handler_named(const std::string& name);

// What one supervisor and its workers have in common, as long as one of them lives.
struct World {
  uint32_t generation = 0;
  bool is_on_trial = false;    // as the daemon has it
  uint32_t first_workers = 0;  // that it has before it is ready
  bool was_killed = false;     // its supervisor was, by the scenario
  Nanoseconds told_to_leave_at = kNever;
  Behaviour* behaviour = nullptr;
  PoolSettings settings;
  std::vector<int> listen_sockets;
  std::unique_ptr<shm::Mapping> mapping;
  Process* process = nullptr;  // null: it is gone
};
const std::map<pid_t, std::unique_ptr<World>>& worlds();  // by the supervisor's pid
World* world_of(const Process& process);
void forget_world(pid_t supervisor);

// Called when a worker has called its handler's `serve`, and when that has answered.
struct HandlerObserver {
  virtual void on_serve(Connection& connection, Process& worker) = 0;
  virtual void on_answer(Connection& connection) = 0;
  virtual void on_started(Process& worker) = 0;

 protected:
  ~HandlerObserver() = default;
};
extern HandlerObserver* handler_observer;

// A new listen socket, as the daemon has it, with nobody in its queue.
std::shared_ptr<Listener> make_listener();

// Writes each line of the log to stderr, with the simulated time.
extern bool is_traced;
void write_log(const LogLine& line);

}  // namespace preforkd::sim
