// catmerge: conflict-aware task merging for any tensor backend.
// SPDX-License-Identifier: MIT
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <catmerge/tensor/scalar.hpp>
#include <cstdint>
#include <memory>
#include <type_traits>

/// The only matrix product on the host. Most of CAT's work is products of 4 to 100 rows with a
/// large matrix. Other GEMMs first copy the large factor into an order of their own, which takes as
/// long as multiplying it with 30 rows. This one reads it in place, a few rows at a time; the first
/// rows of x copy the panels that later rows read again. (28 rows, a factor of 3072 x 768 floats
/// from memory, as it is and transposed, GFLOP/s of one core: Zen 3 with AVX2 66 and 69, Eigen 3.4
/// 45 and 40. 768 x 768 with AVX-512 at 2.6 GHz: 85, Eigen 49, OpenBLAS 0.3.21 51.) Written in
/// Eigen's packets: one source for SSE, AVX, AVX-512 and NEON.

// Loops that must unroll, so that sums stay in registers: Clang does so by itself, GCC under -O3.
#if defined(__GNUC__) && !defined(__clang__)
#define CATMERGE_UNROLL _Pragma("GCC unroll 8")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"  // packets as template arguments
#else
#define CATMERGE_UNROLL
#endif

namespace catmerge::detail {

/// The kernel for one type: registers hold the sums of `height` rows of x with `packets` packets of
/// columns.
template <compute_scalar C, int Packets>
struct product_kernel {
  using packet = typename Eigen::internal::packet_traits<C>::type;
  static constexpr index_t packet_size = Eigen::internal::unpacket_traits<packet>::size;
  static constexpr bool many_registers = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32;
  static constexpr int most_packets = many_registers ? 4 : 2;
  static constexpr int packets = Packets;
  static constexpr int height = Packets == 1 ? 8 : 6;
  static constexpr index_t width = packets * packet_size;
  /// True if a row of a panel fits one cache line. In place, such rows are pages apart and evict
  /// one another from every level: a panel then has few rows and is copied without gaps.
  static constexpr bool narrow = width * sizeof(C) <= 64;
  /// The rows taken at a time from a factor that is read in place.
  static constexpr index_t depth_in_place = narrow ? 64 : 512;

  /// Prefetches the memory `next` elements after `at` into the second-level cache (the first is
  /// full). Not a read: the address may be invalid.
  static void touch([[maybe_unused]] const C* at, [[maybe_unused]] index_t next) {
#ifdef __GNUC__  // (Clang too. Others do without the hint.)
    const auto address =
        reinterpret_cast<std::uintptr_t>(at) + static_cast<std::uintptr_t>(next) * sizeof(C);
    __builtin_prefetch(reinterpret_cast<const void*>(address), 0, 2);
#endif
  }

  /// y += x t for `Rows` rows of x and `width` columns of t and y, row-major with strides. Rows of
  /// x from number `m` on repeat row m - 1. Every sum runs in the order of the depth. The memory
  /// `next` elements after t is prefetched: rows of t are pages apart, which no hardware prefetcher
  /// follows. Copied: t is also copied to `panel`, row after row without gaps.
  template <int Rows, bool Copied>
  static void run(const C* first, index_t x_stride, index_t m, const C* t, index_t t_stride, C* y,
                  index_t y_stride, index_t depth, index_t next, C* panel) {
    using namespace Eigen::internal;
    const C* x[static_cast<std::size_t>(Rows)];
    for (index_t r = 0; r < Rows; ++r) x[r] = first + (std::min)(r, m - 1) * x_stride;
    packet sum[static_cast<std::size_t>(Rows)][static_cast<std::size_t>(packets)];
    CATMERGE_UNROLL for (int r = 0; r < Rows; ++r) {
      CATMERGE_UNROLL for (int p = 0; p < packets; ++p) {
        sum[r][p] = ploadu<packet>(y + r * y_stride + p * packet_size);
      }
    }
    for (index_t l = 0; l < depth; ++l) {
      packet row[static_cast<std::size_t>(packets)];
      CATMERGE_UNROLL for (int p = 0; p < packets; ++p) {
        const C* const at = t + l * t_stride + p * packet_size;
        touch(at, next);
        row[p] = ploadu<packet>(at);
        if constexpr (Copied) pstoreu(panel + l * width + p * packet_size, row[p]);
      }
      CATMERGE_UNROLL for (int r = 0; r < Rows; ++r) {
        const packet factor = pset1<packet>(x[r][l]);
        CATMERGE_UNROLL for (int p = 0; p < packets; ++p) {
          sum[r][p] = pmadd(factor, row[p], sum[r][p]);
        }
      }
    }
    CATMERGE_UNROLL for (int r = 0; r < Rows; ++r) {
      CATMERGE_UNROLL for (int p = 0; p < packets; ++p) {
        pstoreu(y + r * y_stride + p * packet_size, sum[r][p]);
      }
    }
  }

  /// panel (depth x width) = the transpose of t (columns x depth); zeros where columns end. `next`
  /// as in run.
  static void flip(const C* t, index_t t_stride, index_t columns, index_t depth, C* panel,
                   index_t stride, index_t next) {
    using namespace Eigen::internal;
    constexpr index_t side = packet_size;
    for (index_t left = 0; left < width; left += side)
      for (index_t top = 0; top < depth; top += side) {
        if (left + side <= columns && top + side <= depth) {
          PacketBlock<packet, static_cast<int>(side)> block;
          for (index_t r = 0; r < side; ++r) {
            const C* const at = t + (left + r) * t_stride + top;
            touch(at, next);
            block.packet[r] = ploadu<packet>(at);
          }
          ptranspose(block);
          for (index_t r = 0; r < side; ++r)
            pstoreu(panel + (top + r) * stride + left, block.packet[r]);
          continue;
        }
        for (index_t l = top; l < (std::min)(top + side, depth); ++l)
          for (index_t j = left; j < left + side; ++j)
            panel[l * stride + j] = j < columns ? t[j * t_stride + l] : C(0);
      }
  }

  /// panel (depth x width, dense) = t (depth x columns); zeros where columns end.
  static void copy(const C* t, index_t t_stride, index_t columns, index_t depth, C* panel) {
    for (index_t r = 0; r < depth; ++r, t += t_stride, panel += width) {
      std::copy_n(t, columns, panel);
      std::fill_n(panel + columns, width - columns, C(0));
    }
  }

  /// y += x t for all m rows of x and at most `width` columns. A panel of t (128 KiB at most) stays
  /// in a second-level cache while all rows of x are multiplied.
  static void add(const C* x, index_t x_stride, const C* t, index_t t_stride, bool flipped, C* y,
                  index_t y_stride, index_t m, index_t columns, index_t depth, C* panel) {
    index_t next = flipped ? width * t_stride : narrow ? 2 * width : width;
    const bool brought = flipped || columns < width;
    if (flipped)
      flip(t, t_stride, columns, depth, panel, width, next);
    else if (brought)
      copy(t, t_stride, columns, depth, panel);
    if (brought) t = panel, t_stride = width, next = 0;
    const bool copied = narrow && !brought && m > index_t{2} * height;
    for (index_t i = 0; i < m; i += height) {
      const auto go = [&]<int Rows, bool Copied>(std::integral_constant<int, Rows>,
                                                 std::bool_constant<Copied>) {
        run<Rows, Copied>(x + i * x_stride, x_stride, m - i, t, t_stride, y + i * y_stride,
                          y_stride, depth, next, panel);
      };
      if (i == 0 && copied) {
        go(std::integral_constant<int, height>{}, std::true_type{});
        t = panel, t_stride = width;
      } else if (m - i > 4) {
        go(std::integral_constant<int, height>{}, std::false_type{});
      } else if (m - i > 2) {
        go(std::integral_constant<int, 4>{}, std::false_type{});
      } else {
        go(std::integral_constant<int, 2>{}, std::false_type{});
      }
      next = 0;
    }
  }
};

/// Room for `Size` numbers, aligned to a cache line. Up to 32 KiB it lies on the stack, which may
/// be small in an executor's threads. Larger room (128 KiB, with AVX-512) is allocated once per
/// thread: to return pages and ask for them again costs some percent.
template <compute_scalar C, index_t Size>
struct panel_on_stack {
  C* data() { return memory; }
  alignas(64) C memory[static_cast<std::size_t>(Size)];
};
template <compute_scalar C, index_t Size>
struct panel_of_thread {
  static C* data() {
    constexpr index_t line = 64 / sizeof(C);
    thread_local const std::unique_ptr<C[]> memory(new C[static_cast<std::size_t>(Size + line)]);
    const auto address = reinterpret_cast<std::uintptr_t>(memory.get());
    return memory.get() + (line - static_cast<index_t>(address / sizeof(C)) % line);
  }
};
template <compute_scalar C, index_t Size>
using product_panel = std::conditional_t<static_cast<std::size_t>(Size) * sizeof(C) <= (32 << 10),
                                         panel_on_stack<C, Size>, panel_of_thread<C, Size>>;

/// The extents that add_product needs in y. Entries beyond m x n hold no results.
template <compute_scalar C>
constexpr index_t product_rows(index_t m) {
  return m + product_kernel<C, 1>::height - 1;
}
template <compute_scalar C>
constexpr index_t product_columns(index_t n) {
  constexpr index_t side = product_kernel<C, 1>::width;
  return (n + side - 1) / side * side;
}

/// y += x t for row-major x (m x k), t and y (m x n), strides between rows. `flipped`: t is stored
/// as n x k, else as k x n; sums are the same. There must be room for product_rows(m) x
/// product_columns(n) in y.
template <compute_scalar C>
void add_product(const C* x, index_t x_stride, const C* t, index_t t_stride, bool flipped, C* y,
                 index_t y_stride, index_t m, index_t n, index_t k) {
  using one = product_kernel<C, 1>;
  using widest = product_kernel<C, one::most_packets>;
  constexpr index_t deepest = 512;
  product_panel<C, deepest * widest::width> room;
  C* const panel = room.data();
  const index_t depth = flipped ? deepest : widest::depth_in_place;
  for (index_t l = 0; l < k; l += depth) {
    const index_t deep = (std::min)(depth, k - l);
    for (index_t j = 0; j < n; j += widest::width) {
      const C* from = flipped ? t + j * t_stride + l : t + l * t_stride + j;
      const index_t wide = (std::min)(widest::width, n - j);
      const auto add = [&]<int Packets>(std::integral_constant<int, Packets>) {
        product_kernel<C, Packets>::add(x + l, x_stride, from, t_stride, flipped, y + j, y_stride,
                                        m, wide, deep, panel);
      };
      // The columns left at the end take the narrowest kernel that holds them.
      const index_t left = (wide + one::width - 1) / one::width;
      if (left == 1)
        add(std::integral_constant<int, 1>{});
      else if (left == 2)
        add(std::integral_constant<int, 2>{});
      else if constexpr (one::most_packets == 4) {
        if (left == 3)
          add(std::integral_constant<int, 3>{});
        else
          add(std::integral_constant<int, 4>{});
      }
    }
  }
}

/// y (columns x rows) = the transpose of t (rows x columns). There must be room for
/// product_columns(rows) columns in y.
template <compute_scalar C>
void flip(const C* t, index_t t_stride, index_t rows, index_t columns, C* y, index_t y_stride) {
  using kernel = product_kernel<C, 1>;
  for (index_t j = 0; j < rows; j += kernel::width)
    kernel::flip(t + j * t_stride, t_stride, (std::min)(kernel::width, rows - j), columns, y + j,
                 y_stride, 0);
}

#ifdef EIGEN_USE_BLAS

/// add_product by the BLAS, for many rows: some percent faster, sums in the BLAS's own order.
template <compute_scalar C>
void add_product_by_blas(const C* x, index_t x_stride, const C* t, index_t t_stride, bool flipped,
                         C* y, index_t y_stride, index_t m, index_t n, index_t k) {
  using rows = Eigen::Map<const Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                          0, Eigen::OuterStride<>>;
  Eigen::Map<Eigen::Matrix<C, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>, 0,
             Eigen::OuterStride<>>
      result(y, m, n, Eigen::OuterStride<>(y_stride));
  const rows left(x, m, k, Eigen::OuterStride<>(x_stride));
  if (flipped)
    result.noalias() += left * rows(t, n, k, Eigen::OuterStride<>(t_stride)).transpose();
  else
    result.noalias() += left * rows(t, k, n, Eigen::OuterStride<>(t_stride));
}

#endif

}  // namespace catmerge::detail

#undef CATMERGE_UNROLL
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif
