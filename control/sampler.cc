#include "control/sampler.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <iterator>

#include "base/error.h"
#include "base/log.h"
#include "shm/layout.h"

namespace preforkd {
namespace {

constexpr Nanoseconds kInterval = kSecond;

uint32_t tick_of(const Segment& segment) {
  uint32_t tick = 0;
  ssize_t n = pread(segment.reader.fd(), &tick, sizeof tick, offsetof(shm::Segment, shared.tick));
  return n == sizeof tick ? tick : 0;
}

}  // namespace

Sampler::Sampler(EventLoop& loop, Pools& pools)
    : loop_(loop), pools_(pools), bells_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (!bells_.is_open()) throw SysError("eventfd", errno);
  loop_.watch(bells_.get(), EPOLLIN, [this](uint32_t) { on_bell(); });
}

Sampler::~Sampler() { loop_.forget(bells_.get()); }

void Sampler::follow_news() {
  for (auto entry = watches_.begin(); entry != watches_.end();) {
    bool gone = !pools_.all().contains(entry->first);
    entry = gone ? watches_.erase(entry) : std::next(entry);
  }
  for (const auto& [name, pool] : pools_.all()) {
    Watch& watch = watches_[name];
    if (follow(pool, watch)) wake(name, watch);
  }
}

// True if there is a segment that was not there before.
bool Sampler::follow(const PoolReader& pool, Watch& watch) {
  std::map<uint64_t, const Segment*> living;
  for (const auto& [generation, segment] : pool.segments())
    if (!segment.info.over) living[segment.serial] = &segment;
  std::erase_if(watch.ears, [&](const auto& ear) { return !living.contains(ear.first); });
  bool added = false;
  for (const auto& [serial, segment] : living) {
    auto [ear, is_new] = watch.ears.try_emplace(serial);
    if (!is_new) continue;
    added = true;
    try {
      ear->second.bell = std::make_unique<TickBell>(segment->reader.fd(), bells_.get());
    } catch (const SysError& error) {  // a pool too many for this process: its figures stay, and
                                       // those of the last seconds are known only while asked for
      log_error(std::string("watch a pool's traffic: ") + error.what());
    }
  }
  return added;
}

void Sampler::on_bell() {
  uint64_t count;
  [[maybe_unused]] ssize_t ignored = read(bells_.get(), &count, sizeof count);
  for (auto& [name, watch] : watches_) {
    bool rung = false;
    for (auto& [serial, ear] : watch.ears)
      if (ear.bell && ear.bell->take_ring()) rung = true;
    if (rung) wake(name, watch);
  }
}

void Sampler::wake(const std::string& name, Watch& watch) {
  if (watch.awake) return;
  watch.awake = true;
  auto pool = pools_.all().find(name);
  if (pool != pools_.all().end()) pool->second.read(monotonic_now());
  watch.next = loop_.after(kInterval, [this, name] { look(name); });
}

// Once a second while awake. The ticks are read before the figures: a connection that comes in between
// is then seen as a change the next time.
void Sampler::look(const std::string& name) {
  auto entry = watches_.find(name);
  auto pool = pools_.all().find(name);
  if (entry == watches_.end() || pool == pools_.all().end()) return;
  Watch& watch = entry->second;
  bool traffic = false;
  for (const auto& [generation, segment] : pool->second.segments()) {
    auto ear = watch.ears.find(segment.serial);
    if (ear == watch.ears.end()) continue;
    uint32_t tick = tick_of(segment);
    if (tick != ear->second.seen) traffic = true;
    ear->second.seen = tick;
  }
  Reading reading = pool->second.read(monotonic_now());
  if (reading.sum(&shm::Snapshot::busy) + reading.sum(&shm::Snapshot::active) > 0) traffic = true;
  if (traffic) {
    watch.next = loop_.after(kInterval, [this, name] { look(name); });
    return;
  }
  watch.awake = false;
  for (auto& [serial, ear] : watch.ears)
    if (ear.bell) ear.bell->arm(ear.seen);
}

}  // namespace preforkd
