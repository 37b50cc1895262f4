// What the tests of control share: memory as a pool leaves it, and news as the daemon sends them.
#pragma once

#include <CUnit/CUnit.h>
#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>

#include "control/pools.h"
#include "ipc/control_messages.h"
#include "shm/layout.h"

namespace preforkd {

using nlohmann::json;

inline void expect_text(const std::string& got, const std::string& wanted) {
  if (got != wanted) std::printf("\n  wanted: %s\n  got:    %s\n", wanted.c_str(), got.c_str());
  CU_ASSERT(got == wanted);
}

inline void expect_part(const std::string& text, const std::string& part) {
  if (text.find(part) == text.npos)
    std::printf("\n  wanted in it: %s\n  text: %s\n", part.c_str(), text.c_str());
  CU_ASSERT(text.find(part) != text.npos);
}

// Memory as a supervisor and its workers would have left it.
class FakeSegment {
 public:
  static constexpr uint32_t kCapacity = 1024;

  explicit FakeSegment(uint32_t generation) : fd_(memfd_create("control-test", MFD_CLOEXEC)) {
    CU_ASSERT_FATAL(ftruncate(fd_.get(), static_cast<off_t>(kSize)) == 0);
    base_ = mmap(nullptr, kSize, PROT_READ | PROT_WRITE, MAP_SHARED, fd_.get(), 0);
    CU_ASSERT_FATAL(base_ != MAP_FAILED);
    shm::Header& h = head().header;
    h.magic = shm::kMagic;
    h.version = shm::kLayoutVersion;
    h.generation = generation;
    h.capacity = kCapacity;
    head().published.scan_words = 1;
  }
  ~FakeSegment() { munmap(base_, kSize); }

  shm::Segment& head() { return *static_cast<shm::Segment*>(base_); }
  shm::Slot& slot(uint32_t i) {
    return *reinterpret_cast<shm::Slot*>(static_cast<char*>(base_) + shm::slots_offset(kCapacity) +
                                         i * sizeof(shm::Slot));
  }
  void worker(uint32_t i, WorkerState state, uint64_t served, bool active, uint64_t aborted = 0) {
    slot(i).state = static_cast<uint32_t>(state);
    slot(i).pid = 100 + i;
    slot(i).served = served;
    slot(i).aborted = aborted;
    slot(i).begun = served + aborted + active;
    slot(i).histogram[histogram_bucket(100)] = static_cast<uint32_t>(served);
    slot(i).max_us = served ? 100 : 0;
  }
  void shrink() { CU_ASSERT_FATAL(ftruncate(fd_.get(), 0) == 0); }
  int fd() const { return fd_.get(); }
  UniqueFd descriptor() const { return UniqueFd(dup(fd_.get())); }

 private:
  static constexpr size_t kSize = shm::segment_size(kCapacity);
  UniqueFd fd_;
  void* base_ = nullptr;
};

inline std::string daemon_news(bool stopping = false, int gid = -1) {
  return json{{"version", "0.1.0"},   {"pid", 7},         {"uid", 500},
              {"started_ns", 1},      {"reloads", 3},     {"control_gid", gid},
              {"stopping", stopping}, {"pools", {"echo"}}}
      .dump();
}

inline std::string pool_news(const json& generations) {
  return json{
      {"name", "echo"},
      {"state", "running"},
      {"reason", ""},
      {"generation", 1},
      {"generations", generations},
      {"listen", {"127.0.0.1:7007"}},
      {"listen_inodes", json::array()},
      {"backlog_limit", 4096},
      {"limits",
       {{"min", 4}, {"max", 256}, {"min_spare", 2}, {"max_spare", 8}, {"shrink_after", 2.5}}},
      {"capacity", 1024}}
      .dump();
}

inline Channel::Datagram datagram(ControlNews kind, const std::string& text,
                                  const std::string& base = "") {
  ControlNewsHeader header{kind, static_cast<uint32_t>(text.size()),
                           static_cast<uint32_t>(base.size()), 0};
  Channel::Datagram d;
  d.bytes.assign(reinterpret_cast<const char*>(&header), sizeof header);
  d.bytes += text + base;
  return d;
}

inline bool learn(Pools& pools, ControlNews kind, const std::string& text,
                  const std::string& base = "") {
  auto d = datagram(kind, text, base);
  return pools.learn(d);
}

inline bool learn_segment(Pools& pools, const FakeSegment& segment, uint32_t generation) {
  SegmentNews news;
  news.generation = generation;
  std::strcpy(news.pool, "echo");
  Channel::Datagram d;
  d.bytes.assign(reinterpret_cast<const char*>(&news), sizeof news);
  d.descriptor = segment.descriptor();
  return pools.learn(d);
}

inline json generation_news(uint32_t number, bool over = false,
                            const std::vector<uint32_t>& ended_well = {},
                            const std::vector<uint32_t>& ended_badly = {}) {
  return {{"number", number},
          {"over", over},
          {"supervised", !over},
          {"ended_well", ended_well},
          {"ended_badly", ended_badly}};
}
inline const json kFirst = json::array({generation_news(1)});
inline const json kFirstOver = json::array({generation_news(1, true)});

}  // namespace preforkd
