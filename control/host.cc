#include "control/host.h"

#include <arpa/inet.h>
#include <netinet/in.h>

#include <algorithm>

namespace preforkd {
namespace {

constexpr size_t kLongestName = 253;  // of DNS
constexpr size_t kLongestPort = 5;
constexpr std::string_view kDigits = "0123456789";
constexpr std::string_view kOfAddresses = "0123456789abcdefABCDEF:.";
constexpr std::string_view kOfNames =
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._";

bool consists_of(std::string_view text, std::string_view characters) {
  return !text.empty() && text.find_first_not_of(characters) == text.npos;
}

// "" or ":" and a number: HTTP lets the number be missing.
bool is_port(std::string_view text) {
  if (text.empty()) return true;
  std::string_view number = text.substr(1);
  return text[0] == ':' && number.size() <= kLongestPort &&
         (number.empty() || consists_of(number, kDigits));
}

// What stands between the brackets: an IPv6 address, perhaps with the zone that it is meant in.
bool is_v6(std::string_view text) {
  const size_t zone = std::min(text.find('%'), text.size());
  if (zone < text.size() && !consists_of(text.substr(zone + 1), kOfNames)) return false;
  const std::string address(text.substr(0, zone));
  in6_addr ignored;
  return consists_of(address, kOfAddresses) &&  // no NUL: the library would read to there
         inet_pton(AF_INET6, address.c_str(), &ignored) == 1;
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return out;
}

}  // namespace

HostVerdict judge_host(std::string_view header, const std::vector<std::string>& names) {
  while (header.ends_with(' ') || header.ends_with('\t')) header.remove_suffix(1);
  if (header.starts_with('[')) {
    const size_t end = header.find(']');
    const bool good =
        end != header.npos && is_v6(header.substr(1, end - 1)) && is_port(header.substr(end + 1));
    return good ? HostVerdict::kOurs : HostVerdict::kNonsense;
  }
  const size_t colon = std::min(header.find(':'), header.size());
  std::string host = lower(header.substr(0, colon));
  if (!is_port(header.substr(colon)) || host.size() > kLongestName + 1 ||
      !consists_of(host, kOfNames) || host.starts_with('.') || host.find("..") != host.npos)
    return HostVerdict::kNonsense;
  in_addr ignored;
  if (inet_pton(AF_INET, host.c_str(), &ignored) == 1) return HostVerdict::kOurs;
  if (host.ends_with('.')) host.pop_back();
  if (host == "localhost" || host.ends_with(".localhost")) return HostVerdict::kOurs;
  const bool listed = std::any_of(names.begin(), names.end(),
                                  [&](const auto& name) { return lower(name) == host; });
  return listed ? HostVerdict::kOurs : HostVerdict::kUnknown;
}

}  // namespace preforkd
