#pragma once

#include <catmerge/adapt/span.hpp>

/// The first entry of the weight half way between the two; -1 where the settings, a JSON text, are
/// empty.
float half_way(catmerge::flat_matrix<const float> base, catmerge::flat_matrix<const float> expert,
               const char* settings);
