// What the fuzzers of control share: the news of a daemon with one pool, and that pool's memory.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "control/pools.h"
#include "ipc/control_messages.h"
#include "shm/layout.h"
#include "tests/fuzz/fuzz.h"

namespace preforkd::fuzz {

inline constexpr std::string_view kDaemonNews =
    R"({"version":"0.1.0","pid":7,"uid":0,"started_ns":1,"reloads":3,"control_gid":-1,)"
    R"("stopping":false,"pools":["echo"]})";
inline constexpr std::string_view kPoolNews =
    R"({"name":"echo","state":"running","reason":"","generation":1,)"
    R"("generations":[{"number":1,"over":false,"supervised":true,"ended_well":[],"ended_badly":[]}],)"
    R"("listen":["127.0.0.1:7007"],)"
    R"("listen_inodes":[],"backlog_limit":4096,"limits":{"min":4,"max":256,"min_spare":2,)"
    R"("max_spare":8,"shrink_after":2.5},"capacity":64})";

inline std::string with_header(ControlNews kind, std::string_view json,
                               std::string_view base = {}) {
  ControlNewsHeader header{kind, static_cast<uint32_t>(json.size()),
                           static_cast<uint32_t>(base.size()), 0};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return bytes.append(json).append(base);
}

// A segment with three workers and a decision, as small as segments can be.
class Memory {
 public:
  static constexpr uint32_t kCapacity = 64;
  static constexpr size_t kSize = shm::segment_size(kCapacity);

  Memory() : fd_(memfd_create("fuzz", MFD_CLOEXEC)), fresh_(kSize) {
    resize(kSize);
    base_ =
        static_cast<char*>(mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0));
    must(base_ != MAP_FAILED, "memory for a segment");
    fill();
    std::memcpy(fresh_.data(), base_, kSize);
  }
  ~Memory() { munmap(base_, kSize); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  char* bytes() { return base_; }
  void resize(size_t size) { must(ftruncate(fd_.get(), static_cast<off_t>(size)) == 0, "resize"); }
  void reset() {
    resize(kSize);
    std::memcpy(base_, fresh_.data(), kSize);
  }
  UniqueFd descriptor() const { return UniqueFd(dup(fd_.get())); }

 private:
  shm::Slot& slot(uint32_t i) {
    return reinterpret_cast<shm::Slot*>(base_ + shm::slots_offset(kCapacity))[i];
  }
  void fill() {
    auto& head = *reinterpret_cast<shm::Segment*>(base_);
    head.header.magic = shm::kMagic;
    head.header.version = shm::kLayoutVersion;
    head.header.generation = 1;
    head.header.size = kSize;
    head.header.capacity = kCapacity;
    head.published.scan_words = 1;
    head.gone.totals[0].served = 9;
    head.gone.totals[0].forked = 4;
    for (uint32_t i = 0; i < 3; ++i) {
      slot(i).pid = 100 + i;
      slot(i).state = static_cast<uint32_t>(WorkerState::kIdle) + i % 2;
      slot(i).since = slot(i).forked_at = kSecond;
      slot(i).served = 5;
      slot(i).begun = 5 + i % 2;
      slot(i).histogram[histogram_bucket(100)] = 5;
      slot(i).max_us = 100;
      slot(i).peer[0] = AF_INET | 80 << 16;
    }
    auto& decision = *reinterpret_cast<shm::Decision*>(base_ + shm::decisions_offset(kCapacity));
    decision.sequence = 1;
    decision.at = kSecond;
    decision.action = static_cast<uint32_t>(Action::kGrow);
    decision.reason = static_cast<uint32_t>(Reason::kDemand);
    decision.count = 4;
  }

  UniqueFd fd_;
  char* base_ = nullptr;
  std::vector<char> fresh_;
};

inline void learn(Pools& pools, std::string bytes, UniqueFd descriptor = {}) {
  Channel::Datagram datagram{std::move(bytes), std::move(descriptor)};
  must(pools.learn(datagram), "the news make sense");
}

inline void learn_segment(Pools& pools, const Memory& memory, uint32_t generation) {
  SegmentNews news;
  news.generation = generation;
  std::strcpy(news.pool, "echo");
  learn(pools, std::string(reinterpret_cast<const char*>(&news), sizeof news), memory.descriptor());
}

// Everything that a pool named "echo" can show of itself.
inline void learn_all(Pools& pools, const Memory& memory) {
  learn(pools, with_header(ControlNews::kDaemon, kDaemonNews));
  learn(pools, with_header(ControlNews::kPool, kPoolNews));
  learn_segment(pools, memory, 1);
}

inline nlohmann::json parsed(const std::string& text) {
  auto json = nlohmann::json::parse(text, nullptr, false);
  must(!json.is_discarded(), "the answer is JSON", text);
  return json;
}

}  // namespace preforkd::fuzz
