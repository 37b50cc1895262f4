// Every key of the configuration, one row each. Reading a file, printing it, the suggestions for a
// misspelled key and the JSON that a supervisor gets all go by this table: a new key is a new row,
// a member of the structs in conf/settings.h (whose initialiser is its default), and a line in
// conf/preforkd.conf.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "conf/settings.h"

namespace preforkd {

// The groups of a file. kFile is the whole; kPool is each element of the list "pools".
enum class Section {
  kFile,
  kControl,
  kLog,
  kPool,
  kAccess,
  kSaturation,
  kWorkers,
  kTimeouts,
  kTcp,
  kRlimits
};

struct SectionRow {
  Section section;
  Section parent;
  std::string_view name;
};
std::span<const SectionRow> sections();

enum class Type {
  kString,
  kStrings,  // an array, or a list, of strings
  kBoolean,
  kInteger,
  kSeconds,      // a float; an integer will do
  kLimit,        // an integer, "unlimited" (or -1), or "": it stays as it is
  kStatuses,     // an array, or a list, of exit statuses
  kAdjustment,   // an integer, or "": it stays as it is
  kGroup,        // any group, kept as the text of a JSON object
  kEnvironment,  // a group of strings
};

// Where a value lives: a member of one of the structs that Target knows.
using Field = std::variant<
    std::string ControlSettings::*, std::vector<std::string> ControlSettings::*,
    std::string Settings::*, std::string PoolSettings::*, std::vector<std::string> PoolSettings::*,
    std::vector<uint32_t> PoolSettings::*, uint32_t PoolSettings::*, Nanoseconds PoolSettings::*,
    bool PoolSettings::*, uint32_t Limits::*, Nanoseconds Limits::*, bool TcpOptions::*,
    uint32_t TcpOptions::*, std::string ProcessSettings::*, Environment ProcessSettings::*,
    OomScoreAdjust ProcessSettings::*, int32_t ProcessSettings::*, ResourceLimit ResourceLimits::*>;

enum class Presence {
  kOptional,
  kRequired,
  kAlternative,  // one of several: printed only if it says something
};

struct Key {
  Section section;
  Type type;
  std::string_view name;
  Field field;
  Presence presence;
  double least, most;  // of a number; of kStrings and kStatuses, how many
  // Of a string, of each of kStrings, or of each name in kEnvironment: what is wrong with it, or "".
  std::string (*complaint)(const std::string&);
  std::string_view help;
};
std::span<const Key> keys();

// The structs that a key's field is a member of. `pool` may be null for keys outside pools.
struct Target {
  Settings* settings;
  PoolSettings* pool;

  template <class T>
  T& operator()(T ControlSettings::*member) const {
    return settings->control.*member;
  }
  template <class T>
  T& operator()(T Settings::*member) const {
    return settings->*member;
  }
  template <class T>
  T& operator()(T PoolSettings::*member) const {
    return pool->*member;
  }
  template <class T>
  T& operator()(T Limits::*member) const {
    return pool->limits.*member;
  }
  template <class T>
  T& operator()(T TcpOptions::*member) const {
    return pool->tcp.*member;
  }
  template <class T>
  T& operator()(T ProcessSettings::*member) const {
    return pool->process.*member;
  }
  template <class T>
  T& operator()(T ResourceLimits::*member) const {
    return pool->process.limits.*member;
  }
};

const Key* find_key(Section section, std::string_view name);
const SectionRow* find_section(Section parent, std::string_view name);

// As messages name it: "control.web", "workers.min"; keys of a pool itself are bare: "listen".
std::string path_of(Section section, std::string_view name);

inline constexpr uint32_t kHighestStatus = 255;  // that a process can exit with

// "an integer from 1 to 65536".
std::string expectation(const Key& key);

// What somebody may have meant by a key that `section` does not have: "; did you mean \"min\"?", or
// where a key of that name belongs, or "".
std::string suggestion(Section section, std::string_view unknown);

}  // namespace preforkd
