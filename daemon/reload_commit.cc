// The commit of a reload: everything takes effect at once, and the generations before hand over.
#include <utility>

#include "base/log.h"
#include "daemon/reload.h"
#include "daemon/socket_store.h"

namespace preforkd {

void Reload::commit() {
  Attempt a = std::exchange(attempt_, {});
  stage_ = Stage::kHandingOver;
  commit_pools(a);
  for (size_t i = 0; i < inherited_.size(); ++i)
    if (!a.inherited[i].fd.is_open()) inherited_[i].fd.reset();
  std::erase_if(inherited_, [](const auto& socket) { return !socket.fd.is_open(); });
  if (!a.recycles()) commit_settings(a);
  commit_web(a.web);
  control_.tell_all();
  log({LogLevel::kInfo, a.recycled, 0, a.recycles() ? "recycled" : "reloaded " + a.loaded.file,
       Event::kReloaded});
  answer_ = [this, on_done = std::move(a.on_done)](const std::string& trouble) {
    end(
        [&](const std::string&) {
          if (on_done) on_done(trouble);
        },
        "");
  };
  moves_.begin(a.before);
  for (const auto& listener : a.without_file) lost_files_.on_changed(listener);
  hand_over_in_time();
  on_pool_changed();
}

void Reload::commit_pools(Attempt& a) {
  Listeners after;
  std::vector<Pool*> next;
  for (const PoolChange& change : a.changes) {
    after.insert(after.end(), change.plan.listeners.begin(), change.plan.listeners.end());
    next.push_back(change.pool);
  }
  for (const auto& pool : pools_.configured()) pool->forget_listeners();
  for (PoolChange& change : a.changes) commit_pool(a, change, after);
  for (Pool* pool : pools_.arrange(next)) {
    for (const auto& listener : pool->listeners())
      if (!contains(after, listener)) unstore_socket(*listener);
    log({LogLevel::kNotice, pool->settings().name, 0, "taken out of the configuration: draining"});
    pool->finish(after);
  }
  for (const auto& pool : pools_.configured()) pool->watch_listeners();
}

void Reload::commit_pool(Attempt& a, PoolChange& change, const Listeners& after) {
  Pool& pool = *change.pool;
  Listeners dropped;
  if (!change.is_new) {
    dropped = pool.listeners();
    std::erase_if(dropped, [&](const auto& listener) { return contains(after, listener); });
  }
  for (const auto& listener : dropped) unstore_socket(*listener);
  store_sockets(pool.settings().name, change.plan.listeners);
  if (change.needs_trial)
    pool.promote(dropped, a.recycles());
  else if (!a.recycles())
    pool.adopt(change.plan, dropped);
  pool.say_listening(a.before);
}

void Reload::commit_settings(Attempt& a) {
  in_force_.settings = a.loaded.settings;
  in_force_.names = a.loaded.names;
  in_force_.users = a.loaded.users;
  in_force_.control_gid = a.loaded.control_gid;
  const LogLevel level = log_level_of(in_force_.settings);
  set_log_level(level);
  for (const auto& pool : pools_.configured()) pool->set_log_level(level);
  ++succeeded_;
}

// The page's socket may have moved; the socket that commands come from has not.
void Reload::commit_web(WebChange& web) {
  const bool wanted = !in_force_.settings.control.web.empty();
  if (wanted && !web.socket.is_open() && !web.comes_later) return;  // as it was
  if (control_.has_web()) control_.end_web(/*keeps_socket=*/web.stays);
  if (wanted) control_.start_web(std::move(web.socket));
}

}  // namespace preforkd
