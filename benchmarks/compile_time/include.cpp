// The library included and not used.
#include <catmerge/catmerge.hpp>

int main() {}
