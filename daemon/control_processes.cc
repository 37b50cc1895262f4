#include "daemon/control_processes.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "base/log.h"
#include "base/refuse_rights.h"
#include "daemon/file_step.h"
#include "daemon/listener.h"
#include "daemon/pool_info.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kWebAgain = kSecond;

}  // namespace

ControlProcesses::ControlProcesses(EventLoop& loop, LogLink& log, const Paths& paths,
                                   const LoadedSettings& in_force, const PoolSet& pools,
                                   Calls calls)
    : loop_(loop),
      log_(log),
      paths_(paths),
      in_force_(in_force),
      pools_(pools),
      calls_(std::move(calls)),
      user_(in_force.control_user.value()) {}

ControlProcesses::~ControlProcesses() {
  web_.reset();
  control_.reset();
  path_.remove();
}

// One that answers there belongs to another preforkd.
void ControlProcesses::open_sockets(std::vector<std::string>& errors) {
  const ControlSettings& settings = in_force_.settings.control;
  ListenAddress address;
  address.kind = ListenAddress::Kind::kUnix;
  address.path = settings.socket.empty() ? paths_.runtime + "/control.sock" : settings.socket;
  try {
    Listener listener = Listener::open(address, kControlBacklog);
    path_ = listener.path();
    socket_ = listener.release_fd();
    refuse_rights(socket_.get());
  } catch (const std::exception& e) {
    errors.push_back(std::string("control: ") + e.what());
  }
  // Before the code of any pool runs, which could take it.
  if (!settings.web.empty()) web_socket_ = listen_for_web();
}

void ControlProcesses::start() {
  control_ = make_link(ControlLink::Kind::kFull, std::move(socket_));
  control_->start();
  if (lacks_web()) start_web(std::move(web_socket_));
}

std::unique_ptr<ControlLink> ControlProcesses::make_link(ControlLink::Kind kind, UniqueFd socket) {
  const ControlSettings& settings = in_force_.settings.control;
  const bool is_web = kind == ControlLink::Kind::kWeb;
  ControlLink::Calls calls;
  calls.greet = [this, is_web](ControlLink& link) {
    greet(link);
    if (!is_web) loop_.run_after(0, [this] { calls_.on_greeted(); });
  };
  calls.on_request = calls_.on_request;
  if (!is_web && settings.socket.empty())
    calls.make_folder = [folder = paths_.runtime] {
      in_file_system("make runtime directory " + folder, folder, -1, [&] {
        make_runtime_directory(folder);
        return FileId{};
      });
    };
  return std::make_unique<ControlLink>(
      loop_, log_, kind, paths_.control, std::move(socket), is_web ? nullptr : &path_, user_,
      in_force_.settings.log_level, is_web ? settings.hosts : std::vector<std::string>{},
      std::move(calls));
}

void ControlProcesses::look_at_sockets() {
  each([](ControlLink& link) { link.look_at_socket(); });
}

// --- what they are told --------------------------------------------------------------------------

void ControlProcesses::greet(ControlLink& link) const {
  link.tell_daemon(to_json(calls_.info()));
  for (const Pool* pool : pools_.all()) {
    for (const Generation* g : pool->all_generations())  // before they are named: control/pools.h
      link.tell_segment(pool->settings().name, g->number(), g->segment());
    link.tell_pool(to_json(pool_info(*pool)), pool->base());
  }
}

void ControlProcesses::tell_daemon() {
  const std::string json = to_json(calls_.info());
  each([&](ControlLink& link) { link.tell_daemon(json); });
}

void ControlProcesses::tell_pool(const Pool& pool) {
  const std::string json = to_json(pool_info(pool));
  each([&](ControlLink& link) {
    for (const Generation* g : pool.all_generations())
      link.tell_segment(pool.settings().name, g->number(), g->segment());
    link.tell_pool(json, pool.base());
  });
}

void ControlProcesses::tell_all() {
  tell_daemon();
  for (const Pool* pool : pools_.all()) tell_pool(*pool);
}

// --- the page ------------------------------------------------------------------------------------

bool ControlProcesses::lacks_web() const {
  return !in_force_.settings.control.web.empty() && !web_;
}

// Not open: it cannot be had, and why is said once.
UniqueFd ControlProcesses::listen_for_web() {
  UniqueFd socket;
  std::string trouble;
  try {
    const auto web = parse_listen_address(in_force_.settings.control.web, trouble);
    if (!web) throw std::runtime_error(trouble);
    socket =
        Listener::open(with_numbers(*web, in_force_.names).front(), kControlBacklog).release_fd();
  } catch (const std::exception& e) {
    trouble = e.what();
  }
  if (!trouble.empty() && trouble != web_trouble_)
    log_error("control.web: " + trouble +
              ": pools serve without the page; it is tried again each second");
  web_trouble_ = trouble;
  return socket;
}

void ControlProcesses::start_web(UniqueFd socket) {
  if (!socket.is_open()) return start_web_later();
  web_ = make_link(ControlLink::Kind::kWeb, std::move(socket));
  web_->start_again();
}

void ControlProcesses::start_web_later() {
  web_timer_ = loop_.after(kWebAgain, [this] {
    if (calls_.is_stopping() || !lacks_web()) return;
    if (calls_.is_reloading()) return start_web_later();  // which may change it
    UniqueFd socket = listen_for_web();
    if (socket.is_open()) log_notice("control.web: listening on " + in_force_.settings.control.web);
    start_web(std::move(socket));
  });
}

void ControlProcesses::end_web(bool keeps_socket) {
  keeps_socket ? web_->close() : web_->retire();
  leaving_.push_back(std::move(web_));
}

// --- their end -----------------------------------------------------------------------------------

void ControlProcesses::close() {
  web_timer_ = {};
  each([](ControlLink& link) { link.close(); });
}

void ControlProcesses::kill(const std::string& why) {
  each([&](ControlLink& link) { link.kill(why); });
}

bool ControlProcesses::any_is_running() const {
  bool any = false;
  each([&](const ControlLink& link) { any |= link.is_running(); });
  return any;
}

std::vector<ControlLink*> ControlProcesses::all() const {
  std::vector<ControlLink*> all;
  each([&](ControlLink& link) { all.push_back(&link); });
  for (const auto& link : leaving_) all.push_back(link.get());
  return all;
}

bool ControlProcesses::owns(pid_t child) const {
  const auto links = all();
  return std::any_of(links.begin(), links.end(), [=](auto* link) { return link->owns(child); });
}

bool ControlProcesses::child_changed(pid_t pid, int status) {
  const auto links = all();
  return std::any_of(links.begin(), links.end(),
                     [=](auto* link) { return link->child_changed(pid, status); });
}

void ControlProcesses::forget_ended() {
  std::erase_if(leaving_, [](const auto& link) { return !link->is_running(); });
}

// --- over an upgrade in place --------------------------------------------------------------------

void ControlProcesses::record(DaemonRecord& record) const {
  record.control_path = path_.record();
  record.control_user = user_;
  each([&](const ControlLink& link) { record.links.push_back(link.record()); });
}

void ControlProcesses::before_exec() {
  for (const auto& link : leaving_) link->kill("has not ended before the upgrade");
}

void ControlProcesses::resume(const DaemonRecord& record, const std::function<void()>& on_step) {
  path_ = SocketPath(record.control_path);
  for (const LinkRecord& r : record.links) {
    const PutBackOnFailure kept(record, {r.listen, r.news, r.requests, r.log.read_end});
    auto& link = r.web ? web_ : control_;
    link =
        make_link(r.web ? ControlLink::Kind::kWeb : ControlLink::Kind::kFull, UniqueFd(r.listen));
    link->resume(r);
    on_step();
  }
}

// Of all that may be asked, limits alone have no answer during an upgrade; they are in force, and told again.
void ControlProcesses::resumed(uint32_t asked_by, bool hands_in) {
  if (lacks_web()) start_web_later();
  each([&](ControlLink& link) {
    link.answer_all_but(asked_by, 200);
    link.renew(hands_in);
  });
}

}  // namespace preforkd
