// A descriptor that goes along with a message (SCM_RIGHTS): what sendmsg(2) wants for it, in one place.
#pragma once

#include <sys/socket.h>

#include <cstring>

namespace preforkd {

// Lives until the message is sent. Opens and closes nothing.
class Attachment {
 public:
  void attach(msghdr& message, int descriptor) {
    message.msg_control = control_;
    message.msg_controllen = sizeof control_;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof descriptor);
    std::memcpy(CMSG_DATA(header), &descriptor, sizeof descriptor);
  }

 private:
  alignas(cmsghdr) char control_[CMSG_SPACE(sizeof(int))] = {};
};

}  // namespace preforkd
