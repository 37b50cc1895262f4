#include "daemon/acting_as.h"

#include <grp.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>

#include <cerrno>
#include <cstdlib>

#include "base/error.h"

namespace preforkd {
namespace {

// They say what was before, and never whether it worked; -1 is nobody, and changes nothing.
bool has_rights_of(uid_t uid, gid_t gid) {
  return static_cast<uid_t>(setfsuid(static_cast<uid_t>(-1))) == uid &&
         static_cast<gid_t>(setfsgid(static_cast<gid_t>(-1))) == gid;
}

std::vector<gid_t> own_groups() {
  std::vector<gid_t> groups(static_cast<size_t>(std::max(getgroups(0, nullptr), 0)));
  const int count = getgroups(static_cast<int>(groups.size()), groups.data());
  groups.resize(static_cast<size_t>(std::max(count, 0)));
  return groups;
}

}  // namespace

ActingAs::ActingAs(const EffectiveUser& user) : changes_(user.change) {
  if (!changes_) return;
  groups_ = own_groups();
  prctl(PR_GET_PDEATHSIG, &death_signal_);
  const std::string what = "act as user " + user.name;
  if (setgroups(user.groups.size(), user.groups.data()) < 0) throw SysError(what, errno);
  setfsgid(user.gid);
  setfsuid(user.uid);
  if (!has_rights_of(user.uid, user.gid)) {
    put_back();
    throw SysError(what, EPERM);
  }
  keep_guarded();
}

ActingAs::~ActingAs() {
  if (changes_) put_back();
}

void ActingAs::put_back() {
  setfsuid(geteuid());
  setfsgid(getegid());
  if (!has_rights_of(geteuid(), getegid()) || setgroups(groups_.size(), groups_.data()) < 0)
    std::abort();
  keep_guarded();
}

// A change of fsuid takes the signal away, and makes the process dumpable as fs.suid_dumpable says.
void ActingAs::keep_guarded() {
  prctl(PR_SET_PDEATHSIG, death_signal_);
  prctl(PR_SET_DUMPABLE, 0);
}

}  // namespace preforkd
