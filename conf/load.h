// From a file, or from the text of one, to Settings. Everything that is wrong is found in one go: a
// value that cannot be used is reported, and its default stands in for it while the rest is read.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "conf/settings.h"
#include "conf/user.h"

namespace preforkd {

// On which line of the file the keys of a group stand, for messages that come later.
struct KeyLines {
  struct Key {
    unsigned line;
    bool wrong = false;  // it was reported; what the settings have is the default
  };
  unsigned first = 1;  // where the group begins
  // By the path of conf/keys.h ("listen", "workers.min"); an element of an array also as
  // "listen[0]" (but not of a list of networks), a variable as "environment.HOME".
  std::map<std::string, Key, std::less<>> keys;

  bool has(std::string_view path) const { return keys.find(path) != keys.end(); }
  bool wrong(std::string_view path) const {
    auto found = keys.find(path);
    return found != keys.end() && found->second.wrong;
  }
  // Of a key that is not there, where the group begins.
  unsigned of(std::string_view path) const {
    auto found = keys.find(path);
    return found != keys.end() ? found->second.line : first;
  }
};

// Of a host name: its addresses as numbers, or why it has none.
struct HostName {
  std::vector<std::string> addresses;
  std::string error;
};
using HostNames = std::map<std::string, HostName>;

struct LoadedSettings {
  Settings settings;
  std::string file;                  // as messages name it
  KeyLines lines;                    // outside pools
  std::vector<KeyLines> pool_lines;  // parallel to settings.pools
  // What the databases of users said; nothing where that is reported.
  std::vector<std::optional<EffectiveUser>> users;  // parallel to settings.pools
  std::optional<EffectiveUser> control_user, log_user;
  std::optional<gid_t> control_gid;  // of control.group
  // What the resolver said (daemon/loader.h), by the host of an entry of `listen` or of control.web.
  HostNames names;

  // "FILE:LINE" of a key of a pool (or of the pool, where the key is not written).
  std::string where(size_t pool, std::string_view path) const {
    return file + ":" + std::to_string(pool_lines.at(pool).of(path));
  }
};

// Adds to `errors` what is wrong, as "FILE:LINE: key: what was expected" in the order of the lines;
// the settings are good if nothing was added. A file that cannot be read is one error without a
// line; SysError: it could not be tried, for want of descriptors or memory. Waits for a pipe's writer, and for the databases of users: `on_step` hears before each question to one of
// those what is asked ("look up user \"alice\"").
using OnStep = std::function<void(const std::string& what)>;
LoadedSettings load_settings(const std::string& path, std::vector<std::string>& errors,
                             const OnStep& on_step = {});

// The same for a text that lies in memory; `name` stands for the file in messages.
LoadedSettings load_settings_text(std::string_view text, const std::string& name,
                                  std::vector<std::string>& errors, const OnStep& on_step = {});

// The same for what print_settings() made of settings that were good: nobody is asked, and nothing waited for. The
// users are not filled in.
LoadedSettings load_printed_settings(std::string_view text, const std::string& name,
                                     std::vector<std::string>& errors);

}  // namespace preforkd
