// spell: says which words are spelt right. A client sends words, a line each, and is answered by a line each:
//
//   hello                 ok
//   recieve               no: receive, relieve, reverie
//   xqzzv                 no
//   (an empty line)       error: a word was expected
//   (100 bytes or more)   error: longer than 99 bytes
//   (control characters)  error: not a word
//
// until it has finished, or has said nothing for a minute.
//
// Settings: dictionary: the path of the .aff and .dic files without these endings; load: "preload" (once, in the
// supervisor; the workers share it), or "start" (each worker for itself: to see what sharing saves).
#include <unistd.h>
#include <preforkd/handler.hpp>

#include <hunspell/hunspell.hxx>
#include <nlohmann/json.hpp>

namespace {

constexpr size_t kLongestWord = 99;  // Hunspell looks at no more

class Spell : public preforkd::Handler {
 public:
  void preload(const preforkd::Host& host) override {
    const auto settings = nlohmann::json::parse(host.settings());
    dictionary_ = settings.value("dictionary", "/usr/share/hunspell/en_US");
    shared_ = settings.value("load", "preload") != "start";
    if (shared_) load();
  }

  void start() override {
    if (!shared_) load();
  }

  void serve(preforkd::Stream& stream) override {
    std::string answer;
    for (;;) {
      stream.set_deadline(std::chrono::minutes(1));
      try {
        const auto line = stream.read_line(kLongestWord + 1);
        if (!line) return;
        stream.host().note(*line);
        this->answer(*line, answer);
      } catch (const preforkd::TooLong&) {
        if (!stream.skip_until('\n')) return;
        answer = "error: longer than " + std::to_string(kLongestWord) + " bytes\n";
      }
      stream.write_all(answer);
    }
  }

 private:
  void load() {
    const std::string affixes = dictionary_ + ".aff", words = dictionary_ + ".dic";
    for (const std::string& file :
         {affixes, words})  // Hunspell itself would go on without any word
      if (access(file.c_str(), R_OK) != 0)
        throw std::runtime_error("load " + file + ": not readable");
    hunspell_ = std::make_unique<Hunspell>(affixes.c_str(), words.c_str());
  }

  void answer(std::string_view line, std::string& answer) {
    const std::string word(line);
    if (word.empty()) {
      answer = "error: a word was expected\n";
    } else if (std::any_of(word.begin(), word.end(), is_control)) {
      answer = "error: not a word\n";
    } else if (hunspell_->spell(word)) {
      answer = "ok\n";
    } else {
      answer = "no";
      const char* separator = ": ";
      for (const std::string& suggestion : hunspell_->suggest(word)) {
        answer += separator + suggestion;
        separator = ", ";
      }
      answer += "\n";
    }
  }
  static bool is_control(char c) { return static_cast<unsigned char>(c) < ' ' || c == '\x7f'; }

  std::string dictionary_;
  bool shared_ = true;
  std::unique_ptr<Hunspell> hunspell_;
};

}  // namespace

PREFORKD_REGISTER(Spell);
