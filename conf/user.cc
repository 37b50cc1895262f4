#include "conf/user.h"

#include <grp.h>
#include <pwd.h>

#include <cerrno>
#include <cstring>
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

}  // namespace

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
  if (group.empty()) return result;

  auto gid = find_group(group, error);
  if (!gid) return std::nullopt;
  if (!result->change && *gid != result->gid)
    return error = "only root can change to group " + quote(group), std::nullopt;
  result->gid = *gid;
  return result;
}

}  // namespace preforkd
