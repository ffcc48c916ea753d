// The core in a project that is stricter than this one, and that has included headers whose macros
// are words that others use: windows.h, X11, sys/sysmacros.h, complex.h. run.cmake writes
// foreign.hpp, which includes what the core does: as everywhere, headers included before such
// macros are defined have nothing to fear.
#include "foreign.hpp"

#define min(a, b) (((a) < (b)) ? (a) : (b))
#define max(a, b) (((a) > (b)) ? (a) : (b))
#define near
#define far
#define small char
#define hyper long long
#define interface struct
#define pascal
#define IN
#define OUT
#define OPTIONAL
#define CONST const
#define VOID void
#define DELETE 0x10000L
#define ERROR 0
#define NO_ERROR 0
#define ABSOLUTE 1
#define RELATIVE 2
#define OPAQUE 2
#define DIFFERENCE 11
#define IGNORE 0
#define INFINITE 0xFFFFFFFF
#define TRUE 1
#define FALSE 0
#define Bool int
#define Status int
#define None 0L
#define Always 2
#define major(device) ((device) >> 8)
#define minor(device) ((device)&255)
#define I (1.0iF)

#include <catmerge/catmerge.hpp>
#include <catmerge/methods.hpp>

#if CATMERGE_VERSION != EXPECTED_VERSION
#error CATMERGE_VERSION is not the version of the package
#endif
#if CATMERGE_VERSION_NUMBER(0, 2, 0) <= CATMERGE_VERSION_NUMBER(0, 1, 999) || \
    CATMERGE_VERSION_NUMBER(1, 0, 0) <= CATMERGE_VERSION_NUMBER(0, 999, 999)
#error versions do not compare
#endif

// Everything that is a template needs a call to be compiled.
template <class Matrix, class Vector>
void every_method() {
  const Matrix base = Matrix::Zero(4, 4);
  const Vector scale = Vector::Ones(4);
  const std::vector<Matrix> experts(2, base), rows(2, base);
  const std::vector<Vector> scales(2, scale);
  const std::vector<std::vector<Matrix>> group(2, experts);

  catmerge::cat_linear(base, experts, rows);
  catmerge::cat_group(experts, group, rows);
  catmerge::cat_scale(scale, scales, rows);
  catmerge::cat_shift(scale, scales);
  catmerge::consensus(base, experts);
  catmerge::fisher(base, experts, experts);
  catmerge::iso(base, experts);
  catmerge::lot_linear(base, experts, rows);
  catmerge::lot_scale(scale, scales, rows);
  catmerge::pcb(base, experts);
  catmerge::regmean_linear(base, experts, rows);
  catmerge::task_arithmetic(base, experts, 0.3);
  catmerge::tatr(base, experts, experts);
  catmerge::ties(base, experts);
  catmerge::tsv_m(base, experts);
  catmerge::weight_average(base, experts);
  catmerge::wudi(base, experts);

  std::vector<Matrix> vectors{catmerge::task_vector(base, experts[0]), experts[1]};
  const auto basis = catmerge::removal_basis(0, vectors, rows);
  catmerge::project_out(basis.basis, vectors[0]);
  Vector masked = scale;
  catmerge::mask_out(catmerge::scale_mask(0, scales, rows), masked);
  catmerge::conflict_matrix(catmerge::layer_kind::linear, rows, vectors);
  catmerge::spectral_norm(base);
}

int main() {
  every_method<Eigen::MatrixXf, Eigen::VectorXf>();
  every_method<Eigen::MatrixXd, Eigen::VectorXd>();
}
