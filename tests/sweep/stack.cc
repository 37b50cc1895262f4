#include "tests/sweep/stack.h"

#include <libunwind-ptrace.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <sstream>

#include "base/error.h"

namespace preforkd::sweep {
namespace {

constexpr size_t kPage = 4096, kStack = 32 * 1024;
constexpr int kDeepest = 100;

bool is_ours(const std::string& module) { return module.starts_with("preforkd"); }

// Whoever calls the kernel through these has a frame of his own above them.
bool is_between(const std::string& module) {
  for (const char* name : {"libc.so", "ld-linux", "libc-", "[vdso]", "libstdc++", "libpthread"})
    if (module.starts_with(name)) return true;
  return false;
}

// "preforkd::Daemon::start_log(int)" without its arguments and namespace.
std::string short_name(std::string name) {
  for (const char* noise : {"preforkd::", "(anonymous namespace)::", "std::"})
    for (size_t at; (at = name.find(noise)) != name.npos;) name.erase(at, std::strlen(noise));
  if (size_t end = name.find('('); end != name.npos && end > 0) name.erase(end);
  std::replace(name.begin(), name.end(), ' ', '_');
  return name.size() > 60 ? name.substr(0, 60) : name;
}

}  // namespace

// What libunwind asks for, of the process that is looked at just now.
struct Image::Reading {
  static inline Image* image = nullptr;
  static inline pid_t tid = 0;
  static inline user_regs_struct registers{};
  static inline char stack[kStack];
  static inline uint64_t stack_from = 0;
  static inline size_t stack_size = 0;

  static size_t copy(uint64_t address, void* into, size_t size) {
    iovec here{into, size}, there{reinterpret_cast<void*>(address), size};
    const ssize_t got = process_vm_readv(tid, &here, 1, &there, 1, 0);
    return got < 0 ? 0 : static_cast<size_t>(got);
  }

  static int memory(unw_addr_space_t, unw_word_t address, unw_word_t* value, int write, void*) {
    if (write) return -UNW_EINVAL;
    if (address >= stack_from && address + sizeof *value <= stack_from + stack_size) {
      std::memcpy(value, stack + (address - stack_from), sizeof *value);
      return 0;
    }
    if (!image->find(address) || address % kPage > kPage - sizeof *value)
      return copy(address, value, sizeof *value) == sizeof *value ? 0 : -UNW_EINVAL;
    auto [page, is_new] = image->pages_.try_emplace(address / kPage);
    if (is_new) {
      page->second.resize(kPage);
      if (copy(address / kPage * kPage, page->second.data(), kPage) != kPage)
        return image->pages_.erase(page), -UNW_EINVAL;
    }
    std::memcpy(value, page->second.data() + address % kPage, sizeof *value);
    return 0;
  }

  static int reg(unw_addr_space_t, unw_regnum_t number, unw_word_t* value, int write, void*) {
    const user_regs_struct& r = registers;
    const unsigned long long all[] = {r.rax, r.rdx, r.rcx, r.rbx, r.rsi, r.rdi, r.rbp, r.rsp, r.r8,
                                      r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rip};
    if (write || number < 0 || static_cast<size_t>(number) >= std::size(all)) return -UNW_EBADREG;
    *value = all[number];
    return 0;
  }

  static int no_dynamic_info(unw_addr_space_t, unw_word_t*, void*) { return -UNW_ENOINFO; }

  static unw_accessors_t accessors() {
    unw_accessors_t a = _UPT_accessors;
    a.access_mem = memory;
    a.access_reg = reg;
    a.get_dyn_info_list_addr = no_dynamic_info;
    return a;
  }
};

Image::Image(pid_t pid) {
  char path[PATH_MAX] = {};
  const std::string link = "/proc/" + std::to_string(pid) + "/exe";
  const ssize_t size = readlink(link.c_str(), path, sizeof path - 1);
  if (size > 0) path_.assign(path, static_cast<size_t>(size));
  program_ = path_.substr(path_.rfind('/') + 1);
  static unw_accessors_t accessors = Reading::accessors();
  space_ = unw_create_addr_space(&accessors, 0);
  unw_set_caching_policy(static_cast<unw_addr_space_t>(space_), UNW_CACHE_GLOBAL);
  learn_mappings(pid);
}

Image::~Image() { unw_destroy_addr_space(static_cast<unw_addr_space_t>(space_)); }

void Image::learn_mappings(pid_t pid) {
  std::ifstream maps("/proc/" + std::to_string(pid) + "/maps");
  std::vector<Range> ranges;
  std::map<std::string, uint64_t> bases;
  for (std::string line; std::getline(maps, line);) {
    std::istringstream fields(line);
    Range range{};
    char dash = 0;
    uint64_t offset = 0;
    std::string rights, device, inode, path;
    fields >> std::hex >> range.from >> dash >> range.to >> rights >> offset >> device >> inode >>
        path;
    if (path.empty() || rights[1] == 'w' || (path[0] != '/' && path != "[vdso]")) continue;
    range.base = bases.try_emplace(path, range.from - offset).first->second;
    range.module = path.substr(path.rfind('/') + 1);
    ranges.push_back(range);
  }
  if (!ranges.empty()) ranges_ = std::move(ranges);
}

const Image::Range* Image::find(uint64_t address) const {
  for (const Range& range : ranges_)
    if (range.from <= address && address < range.to) return &range;
  return nullptr;
}

const Image::Range* Image::find_or_learn(pid_t tid, uint64_t address) {
  if (const Range* found = find(address)) return found;
  learn_mappings(tid);
  pages_.clear();
  unw_flush_cache(static_cast<unw_addr_space_t>(space_), 0, 0);
  return find(address);
}

std::vector<Frame> Image::frames(pid_t tid) {
  std::vector<Frame> ours, others;
  if (ptrace(PTRACE_GETREGS, tid, nullptr, &Reading::registers) < 0) return ours;
  Reading::image = this;
  Reading::tid = tid;
  Reading::stack_from = Reading::registers.rsp - 256;
  Reading::stack_size = Reading::copy(Reading::stack_from, Reading::stack, kStack);
  // It looks for files by the maps of the process that it is for.
  static std::map<pid_t, void*> known;
  void*& info = known[tid];
  if (!info) info = _UPT_create(tid);
  unw_cursor_t cursor;
  if (unw_init_remote(&cursor, static_cast<unw_addr_space_t>(space_), info) < 0) return ours;
  for (int depth = 0; depth < kDeepest; ++depth) {
    unw_word_t address = 0;
    if (unw_get_reg(&cursor, UNW_REG_IP, &address) < 0 || address == 0) break;
    if (const Range* range = find_or_learn(tid, address)) {
      Frame frame{range->module, address - range->base};
      if (is_ours(range->module))
        ours.push_back(frame);
      else if (!is_between(range->module))
        others.push_back(frame);
    }
    if (unw_step(&cursor) <= 0) break;
  }
  return ours.empty() ? others : ours;
}

// --- names ---------------------------------------------------------------------------------------

void Symbols::add(const std::string& path, const std::vector<Frame>& frames) {
  const std::string module = path.substr(path.rfind('/') + 1);
  paths_[module] = path;
  for (const Frame& frame : frames) names_.try_emplace(frame);
}

void Symbols::resolve() {
  for (const auto& [module, path] : paths_) {
    std::string command = "addr2line -aCfi -e '" + path + "'";
    std::map<uint64_t, std::string*> names;
    for (auto& [frame, name] : names_) {
      if (frame.module != module) continue;
      char address[32];
      std::snprintf(address, sizeof address, " %#lx", frame.offset - 1);
      command += address;
      names[frame.offset - 1] = &name;
    }
    if (names.empty()) continue;
    FILE* said = popen((command + " 2>/dev/null").c_str(), "r");
    if (!said) throw SysError("run addr2line", errno);
    // An address, then each function that is there, innermost first: all but the last one are inlined.
    char line[8192];
    std::string* name = nullptr;
    while (std::fgets(line, sizeof line, said)) {
      line[std::strcspn(line, "\n")] = '\0';
      if (std::strncmp(line, "0x", 2) == 0) {
        name = names.at(std::stoull(line, nullptr, 16));
        continue;
      }
      if (const std::string function = short_name(line); name && function != "??")
        *name += (name->empty() ? "" : " < ") + function;
      if (!std::fgets(line, sizeof line, said)) break;  // where it is
    }
    pclose(said);
  }
}

std::string Symbols::text(const std::vector<Frame>& frames) const {
  std::string text;
  for (const Frame& frame : frames) {
    auto found = names_.find(frame);
    std::string name = found == names_.end() ? "" : found->second;
    if (name.empty()) {
      char offset[32];
      std::snprintf(offset, sizeof offset, "+%#lx", frame.offset);
      name = frame.module + offset;
    }
    text += (text.empty() ? "" : " < ") + name;
  }
  return text;
}

}  // namespace preforkd::sweep
