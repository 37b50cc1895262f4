// Paths that nobody but root and we ourselves can give another meaning. A chain of folders is trusted if each of
// them, from / on, belongs to root or to our effective user, and neither its group nor others may write to it,
// unless it is sticky (as /tmp is). A link is followed where its folder and its owner are trusted, and nowhere else.
//
// Used by the daemon, for whatever a configuration names in folders that a pool's user may own. What was found
// stays true: those who could change it need not be feared. Nothing here waits but for the file system, and no
// database of users is asked.
#pragma once

#include <string>

#include "base/fd.h"

namespace preforkd {

struct TrustedPath {
  UniqueFd folder;         // O_PATH: the one that has `name`; closed unless the chain is trusted
  std::string name;        // the last element, which may be missing, and is not looked at
  std::string path;        // of that, without links
  bool is_shared = false;  // the folder is sticky: others may put names of their own there
  std::string untrusted;   // "/home/alice belongs to uid 1000": the first that is not trusted
  int error = 0;           // an errno: neither, such as ENOENT of a folder in a trusted one

  bool is_trusted() const { return folder.is_open(); }
};

// `path` is absolute.
TrustedPath walk_trusted(const std::string& path);

// Opens a regular file for reading whose folders are all trusted (and the last of them is not sticky: there anybody
// could have linked a file that is not for them), and which itself belongs to root or us and may be written to by
// nobody else. Else nothing, and "/home/alice belongs to uid 1000", "PATH: No such file or directory" in `reason`.
UniqueFd open_trusted(const std::string& path, std::string& reason);

}  // namespace preforkd
