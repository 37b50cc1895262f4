// A client of a pool. Everything has a deadline; what does not come in time is a Failure.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/fd.h"

namespace preforkd::system_test {

inline constexpr double kPatience = 15;  // seconds; the machine may be loaded by others

class Client {
 public:
  // "127.0.0.1:7007", "[::1]:7007", "unix:/path", "unix:@name".
  // `from`: the address to come from, of all that are this machine's ("127.0.0.2"); "": the kernel chooses.
  explicit Client(const std::string& address, const std::string& from = "");
  // Nothing if it is refused (or, for a Unix socket, not there).
  static std::optional<Client> try_connect(const std::string& address);

  // One that hears nothing of what the server answers to its SYN, until it is to: then it is connected.
  static Client deaf(const std::string& address);
  void hear_again();

  void send(std::string_view text);
  std::string read_line(double seconds = kPatience);  // without its end
  std::string read_bytes(size_t size, double seconds = kPatience);
  std::string read_until_eof(double seconds = kPatience);
  // Sends and reads back as many bytes: whether they are the same.
  bool echoes(std::string_view text, double seconds = kPatience);
  bool has_answer();  // something can be read now, be it the end
  bool is_ended(
      double seconds = kPatience);  // end of stream or reset; what comes before is skipped

  void half_close();  // no more to send
  void reset();       // closes with a RST instead of a FIN
  void close() { fd_.reset(); }
  int fd() const { return fd_.get(); }
  std::string own_address() const;  // as the server sees us

 private:
  Client() = default;
  bool connect(const std::string& address, const std::string& from = "");
  bool readable(double seconds);

  UniqueFd fd_;
};

// Whether a server's kernel waits for the last step of somebody's handshake. By its list, of which a line is
// `sl local_address rem_address st …`, in hexadecimal; 03 is SYN_RECV. IPv4 only.
bool is_shaking_hands(const std::string& address);

}  // namespace preforkd::system_test
