// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <bitset>
#include <catmerge/io/fail.hpp>
#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace catmerge::io {

/// A pattern of module names as PEFT takes them (rank_pattern, alpha_pattern): a regular expression
/// of Python that a name's last components must match.
///
/// Taken are characters, `.`, `[...]`, `(...)`, `(?:...)`, `|`, `*`, `+`, `?` (also `*?`, `+?`,
/// `??`), `^`, `$`, `\d`, `\D`, `\w`, `\W`, `\s`, `\S` and a backslash before punctuation. Whether
/// such a pattern matches does not depend on the order in which an engine tries its parts, so that
/// this class and Python agree. The time is the length of the name times that of the pattern; no
/// pattern is slow.
class module_pattern {
 public:
  /// Throws error with the syntax that is not taken and its position.
  explicit module_pattern(std::string_view text) : text_(text) {
    const code any = set_of(std::bitset<128>().set().reset('\n'));
    const code prefix = joined(repeated(any, '*'), set_of(std::bitset<128>().set('.')));
    code all = joined(repeated(prefix, '?'), alternatives(0));
    if (at_ < text_.size()) refuse("a ')' without its '('");
    all.push_back({step_kind::at_end});
    all.push_back({step_kind::found});
    program_ = std::move(all);
  }

  /// The pattern, as given.
  const std::string& text() const { return text_; }

  /// True if Python's `re.match(rf"(.*\.)?({pattern})$", name)` matches. Precondition: the name is
  /// printable ASCII (see is_plain).
  bool matches(std::string_view name) const {
    // All states that some reading of the name so far can be in, each once.
    std::vector<std::size_t> now, next;
    std::vector<std::size_t> seen(program_.size(), 0);  // the last position + 1 that added it
    bool found = false;
    const auto add = [&](std::vector<std::size_t>& states, std::size_t first, std::size_t at) {
      std::vector<std::size_t> open = {first};
      while (!open.empty()) {
        const std::size_t i = open.back();
        open.pop_back();
        if (seen[i] == at + 1) continue;
        seen[i] = at + 1;
        const step& s = program_[i];
        switch (s.kind) {
          case step_kind::found: found = true; break;
          case step_kind::character: states.push_back(i); break;
          case step_kind::at_begin:
            if (at == 0) open.push_back(i + 1);
            break;
          case step_kind::at_end:
            if (at == name.size()) open.push_back(i + 1);
            break;
          case step_kind::split:
            open.push_back(i + static_cast<std::size_t>(s.other));
            [[fallthrough]];
          case step_kind::jump: open.push_back(i + static_cast<std::size_t>(s.to)); break;
        }
      }
    };
    add(now, 0, 0);
    for (std::size_t at = 0; at < name.size(); ++at) {
      const auto c = static_cast<unsigned char>(name[at]);
      next.clear();
      for (const std::size_t i : now) {
        if (c < 128 && sets_[program_[i].set].test(c)) add(next, i + 1, at + 1);
      }
      std::swap(now, next);
    }
    return found;  // only at the end: `found` follows at_end
  }

  /// True for text of printable ASCII. (What `.` and `\w` match elsewhere depends on Unicode.)
  static bool is_plain(std::string_view text) {
    for (const char c : text) {
      if (c < 0x20 || c > 0x7e) return false;
    }
    return true;
  }

 private:
  enum class step_kind : unsigned char { character, split, jump, at_begin, at_end, found };
  struct step {
    step_kind kind;
    std::ptrdiff_t to = 0, other = 0;  // relative; of jump and split
    std::size_t set = 0;               // of character
  };
  using code = std::vector<step>;

  static std::ptrdiff_t length(const code& c) { return static_cast<std::ptrdiff_t>(c.size()); }
  static code joined(code a, const code& b) {
    a.insert(a.end(), b.begin(), b.end());
    return a;
  }
  static code repeated(const code& c, char how) {
    const std::ptrdiff_t n = length(c);
    if (how == '+') return joined(c, {{step_kind::split, -n, 1}});
    const code first = {{step_kind::split, 1, how == '*' ? n + 2 : n + 1}};
    const code once = joined(first, c);
    return how == '*' ? joined(once, {{step_kind::jump, -(n + 1)}}) : once;
  }
  code set_of(const std::bitset<128>& characters) {
    sets_.push_back(characters);
    return {{step_kind::character, 0, 0, sets_.size() - 1}};
  }

  [[noreturn]] void refuse(const std::string& what) const {
    throw error("the pattern " + in_quotes(text_) + " has " + what + " at its byte " +
                std::to_string(at_) +
                ", which is not read here as Python does: write the full names of the modules");
  }
  bool is_next(char c) const { return at_ < text_.size() && text_[at_] == c; }
  bool is_repetition() const {
    return is_next('*') || is_next('+') || is_next('?') || is_next('{');
  }

  code alternatives(int depth) {
    constexpr int deepest = 32;
    if (depth > deepest) refuse("too many nested groups");
    std::vector<code> branches = {sequence(depth)};
    while (is_next('|')) {
      ++at_;
      branches.push_back(sequence(depth));
    }
    std::ptrdiff_t rest = 0;  // steps of the branches that follow, with their splits and jumps
    for (std::size_t i = 1; i < branches.size(); ++i) rest += length(branches[i]) + 2;
    code all;
    for (std::size_t i = 0; i < branches.size(); ++i) {
      const std::ptrdiff_t n = length(branches[i]);
      const bool is_last = i + 1 == branches.size();
      if (!is_last) all.push_back({step_kind::split, 1, n + 2});
      all.insert(all.end(), branches[i].begin(), branches[i].end());
      if (is_last) break;
      // The last branch has neither split nor jump.
      all.push_back({step_kind::jump, rest - 2 + 1});
      rest -= length(branches[i + 1]) + 2;
    }
    return all;
  }

  code sequence(int depth) {
    code all;
    while (at_ < text_.size() && !is_next('|') && !is_next(')')) {
      if (is_repetition()) refuse("a repetition of nothing");
      const bool is_place = is_next('^') || is_next('$');
      code c = atom(depth);
      if (is_next('{')) refuse("a counted repetition");
      if (is_repetition()) {
        if (is_place) refuse("a repetition of a place");
        c = repeated(c, text_[at_++]);
        if (is_next('?')) ++at_;  // lazy: the same names match
        if (is_repetition()) refuse("a repetition of a repetition");
      }
      all.insert(all.end(), c.begin(), c.end());
    }
    return all;
  }

  code atom(int depth) {
    const char c = text_[at_];
    if (!is_plain(text_.substr(at_, 1))) refuse("a character beyond ASCII");
    if (c == '(') {
      ++at_;
      if (is_next('?')) {
        if (text_.substr(at_, 2) != "?:") refuse("an extension '(?'");
        at_ += 2;
      }
      code inside = alternatives(depth + 1);
      if (!is_next(')')) refuse("a '(' without its ')'");
      ++at_;
      return inside;
    }
    if (c == '[') return set_of(bracket());
    if (c == '\\') return set_of(escape());
    ++at_;
    if (c == '^') return {{step_kind::at_begin}};
    if (c == '$') return {{step_kind::at_end}};
    if (c == '.') return set_of(std::bitset<128>().set().reset('\n'));
    return set_of(std::bitset<128>().set(static_cast<std::size_t>(c)));
  }

  /// A backslash and what follows it.
  std::bitset<128> escape() {
    if (at_ + 1 >= text_.size()) refuse("a backslash without a character");
    const char c = text_[at_ + 1];
    std::bitset<128> found;
    const auto fill = [&](std::string_view ranges) {  // pairs of first and last
      for (std::size_t i = 0; i < ranges.size(); i += 2) {
        for (char each = ranges[i]; each <= ranges[i + 1]; ++each) {
          found.set(static_cast<std::size_t>(each));
        }
      }
    };
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool is_digit = c >= '0' && c <= '9';
    if (c == 'd' || c == 'D') {
      fill("09");
    } else if (c == 'w' || c == 'W') {
      fill("09azAZ__");
    } else if (c == 's' || c == 'S') {
      fill("  \t\r");
    } else if (is_letter || is_digit || !is_plain(text_.substr(at_ + 1, 1))) {
      refuse("the escape " + in_quotes(text_.substr(at_, 2)));
    } else {
      found.set(static_cast<std::size_t>(c));
    }
    at_ += 2;
    return c == 'D' || c == 'W' || c == 'S' ? ~found : found;
  }

  /// `[...]` or `[^...]`.
  std::bitset<128> bracket() {
    ++at_;
    const bool is_negated = is_next('^');
    if (is_negated) ++at_;
    std::bitset<128> found;
    for (bool is_first = true; is_first || !is_next(']'); is_first = false) {
      if (at_ >= text_.size()) refuse("a '[' without its ']'");
      const char c = text_[at_];
      if (c == '[' || c == '&' || c == '~' || !is_plain(text_.substr(at_, 1))) {
        refuse("a character in '[...]'");
      }
      if (c == '\\') {
        found |= escape();
        if (is_next('-') && text_.substr(at_, 2) != "-]") refuse("a range after an escape");
        continue;
      }
      ++at_;
      char last = c;
      if (is_next('-') && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        last = text_[at_ + 1];
        if (last < c || last == '\\' || last == '[' || last == '-' || c == '-' ||
            !is_plain(text_.substr(at_ + 1, 1))) {
          refuse("a range in '[...]'");
        }
        at_ += 2;
      }
      for (char each = c; each <= last; ++each) found.set(static_cast<std::size_t>(each));
    }
    ++at_;
    return is_negated ? ~found : found;
  }

  std::string text_;
  std::size_t at_ = 0;  // while it is parsed
  std::vector<std::bitset<128>> sets_;
  code program_;
};

}  // namespace catmerge::io
