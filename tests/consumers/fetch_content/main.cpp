#include <catmerge/io/json.hpp>

int main() {
  try {
    catmerge::io::parse_json(R"({"a": 1, "a": 2})", "no file", "text");
  } catch (const catmerge::error&) {
    return 0;  // a key twice
  }
  return 1;
}
