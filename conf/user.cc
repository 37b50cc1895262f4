#include "conf/user.h"

#include <grp.h>
#include <pwd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <vector>

#include "conf/text.h"

namespace preforkd {
namespace {

// One of the get*_r functions, with a buffer that grows until the entry fits. Returns 0, with the
// entry (which points into the buffer) or null in `found`; or why the database did not answer.
template <class Entry, class Key>
int look_up(int (*get)(Key, Entry*, char*, size_t, Entry**), Key key, Entry& entry, Entry*& found,
            std::vector<char>& buffer) {
  constexpr size_t kLargest = size_t{16} << 20;
  int error = 0;
  for (buffer.resize(1024); buffer.size() <= kLargest; buffer.resize(buffer.size() * 4)) {
    error = get(key, &entry, buffer.data(), buffer.size(), &found);
    if (error != ERANGE && error != EINTR) break;
  }
  // Some databases say "there is none" in these ways.
  if (error == ENOENT || error == ESRCH) error = 0;
  return error;
}

std::string no_answer(const std::string& what, int error) {
  return "look up " + what + ": " + std::strerror(error);
}

std::optional<EffectiveUser> find_user(const std::string& name, std::string& error) {
  passwd entry{}, *found = nullptr;
  std::vector<char> buffer;
  int code = look_up(getpwnam_r, name.c_str(), entry, found, buffer);
  if (code) return error = no_answer("user " + quote(name), code), std::nullopt;
  if (!found) return error = "there is no user " + quote(name), std::nullopt;
  return EffectiveUser{found->pw_uid, found->pw_gid, found->pw_name, true};
}

// Whoever runs this; a number where the system knows no name for it.
EffectiveUser ourselves(uid_t uid) {
  passwd entry{}, *found = nullptr;
  std::vector<char> buffer;
  int code = look_up(getpwuid_r, uid, entry, found, buffer);
  return {uid, getegid(), !code && found ? found->pw_name : std::to_string(uid), false};
}

constexpr const char* kServiceUsers[] = {"preforkd-control", "preforkd-log"};

// Nobody's: above what useradd gives, within what a container usually has mapped. systemd's dynamic users are there,
// too, and have names while they are in use (nss-systemd(8)).
constexpr uid_t kHighestNameless = 65519, kLowestNameless = 61184;

bool has_name(uid_t id) {
  passwd user{}, *found_user = nullptr;
  group some_group{}, *found_group = nullptr;
  std::vector<char> buffer;
  look_up(getpwuid_r, id, user, found_user, buffer);
  if (found_user) return true;
  look_up(getgrgid_r, id, some_group, found_group, buffer);
  return found_group != nullptr;
}

// In a user namespace not every number is one.
bool is_mapped(uid_t id) {
  for (const char* map : {"/proc/self/uid_map", "/proc/self/gid_map"}) {
    std::ifstream file(map);
    bool found = !file;
    for (uint64_t first = 0, outside = 0, count = 0; file >> first >> outside >> count;)
      found |= id >= first && id - first < count;
    if (!found) return false;
  }
  return true;
}

bool is_for_services(const EffectiveUser& user) {
  std::string error;
  return std::any_of(std::begin(kServiceUsers), std::end(kServiceUsers), [&](const char* name) {
    auto service = find_user(name, error);
    return service && service->uid == user.uid;
  });
}

// The user's supplementary groups, with the primary group that the settings name.
std::vector<gid_t> groups_of(const EffectiveUser& user) {
  std::vector<gid_t> groups(64);
  auto count = static_cast<int>(groups.size());
  while (getgrouplist(user.name.c_str(), user.gid, groups.data(), &count) < 0)
    groups.resize(static_cast<size_t>(count));
  groups.resize(static_cast<size_t>(count));
  return groups;
}

}  // namespace

std::optional<EffectiveUser> service_user(Service service, std::string& error, uid_t caller) {
  error.clear();
  if (caller != 0) return ourselves(caller);
  const char* name = kServiceUsers[static_cast<int>(service)];
  if (auto named = find_user(name, error)) {
    named->groups = {named->gid};
    return named;
  }
  auto to_skip = static_cast<int>(service);  // each has its own
  for (uid_t id = kHighestNameless; id >= kLowestNameless; --id)
    if (is_mapped(id) && !has_name(id) && to_skip-- == 0) {
      error.clear();
      return EffectiveUser{id, id, std::to_string(id), true, {id}};
    }
  error = "there is no user " + quote(name) + ", and no uid without a name to take instead";
  return std::nullopt;
}

std::optional<gid_t> find_group(const std::string& name, std::string& error) {
  ::group entry{}, *found = nullptr;
  std::vector<char> buffer;
  int code = look_up(getgrnam_r, name.c_str(), entry, found, buffer);
  if (code) return error = no_answer("group " + quote(name), code), std::nullopt;
  if (!found) return error = "there is no group " + quote(name), std::nullopt;
  return found->gr_gid;
}

std::optional<EffectiveUser> effective_user(const std::string& user, const std::string& group,
                                            std::string& error, uid_t caller) {
  error.clear();
  std::optional<EffectiveUser> result;
  if (caller != 0) {
    result = ourselves(caller);
    if (!user.empty()) {
      auto named = find_user(user, error);
      if (!named) return std::nullopt;
      if (named->uid != caller)
        return error =
                   "only root can become " + quote(user) + ", and this is " + quote(result->name),
               std::nullopt;
      result->name = user;
    }
  } else if (!user.empty()) {
    result = find_user(user, error);
  } else if (!(result = find_user("preforkd", error))) {
    result = find_user("nobody", error);
  }
  if (!result) return std::nullopt;
  error.clear();
  if (caller == 0 && is_for_services(*result))
    return error =
               "user " + quote(result->name) + " is for preforkd's own processes, not for a pool's",
           std::nullopt;
  if (!group.empty()) {
    auto gid = find_group(group, error);
    if (!gid) return std::nullopt;
    if (!result->change && *gid != result->gid)
      return error = "only root can change to group " + quote(group), std::nullopt;
    result->gid = *gid;
  }
  if (result->change) result->groups = groups_of(*result);
  return result;
}

}  // namespace preforkd
