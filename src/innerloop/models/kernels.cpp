// What convolutional networks need and torch's operations do slowly on a CPU: one pass over memory each.
// Images are [groups, images, height, width, channels], channels innermost, so that loops over them vectorise.
// Sums are over the images of a group. T is float or double.

#include <algorithm>
#include <cstdint>
#include <vector>

using Size = std::int64_t;

// Which of a window's four values (a b over c d) is the extreme one by `sign`; the first of equal ones, as torch has it.
template <class T>
struct Choice {
    bool right_above, right_below, below;
    Choice(T sign, T a, T b, T c, T d) {
        a *= sign, b *= sign, c *= sign, d *= sign;
        right_above = b > a;
        right_below = d > c;
        below = (right_below ? d : c) > (right_above ? b : a);
    }
    T of(T a, T b, T c, T d) const { return below ? (right_below ? d : c) : (right_above ? b : a); }
};

// `window(i, j)` for every 2 × 2 window that begins at row i and column j, `edge(i, j)` for what is left at odd sizes; `end()` of each row.
template <class Window, class Edge, class End>
void over_image(Size height, Size width, Window window, Edge edge, End end) {
    for (Size i = 0; i + 1 < height; i += 2) {
        for (Size j = 0; j + 1 < width; j += 2) window(i, j);
        if (width % 2) edge(i, width - 1), edge(i + 1, width - 1);
        end();
    }
    if (height % 2) {
        for (Size j = 0; j < width; j++) edge(height - 1, j);
        end();
    }
}

// Two sums per channel of one image: within a row in T, over rows in double, so that no rounding adds up over an image.
template <class T>
struct Sums {
    std::vector<T> row;
    double* image;
    Sums(Size channels, double* to) : row(2 * channels, T(0)), image(to) {}
    void end() {
        for (Size k = 0; k < Size(row.size()); k++) image[k] += row[k], row[k] = 0;
    }
};

template <class T>
void add_up(const std::vector<double>& parts, Size groups, Size images, Size channels, T* first, T* second) {
    for (Size g = 0; g < groups; g++)
        for (Size c = 0; c < channels; c++) {
            double one = 0, two = 0;
            for (Size n = g * images; n < (g + 1) * images; n++) one += parts[2 * n * channels + c], two += parts[(2 * n + 1) * channels + c];
            first[g * channels + c] = T(one), second[g * channels + c] = T(two);
        }
}

// sum = Σ (x − shift), square = Σ (x − shift)², z = the extreme of each 2 × 2 window. A shift near the mean keeps the variance exact.
template <class T>
void pool(const T* x, const T* sign, const T* shift, Size groups, Size images, Size height, Size width, Size channels, T* sum, T* square,
          T* z) {
    const Size row = width * channels, C = channels;
    std::vector<double> parts(2 * groups * images * C, 0.0);
#pragma omp parallel for schedule(static)
    for (Size n = 0; n < groups * images; n++) {
        const T *image = x + n * height * row, *s = sign + n / images * C, *m = shift + n / images * C;
        T *out = z + n * (height / 2) * (width / 2) * C;
        Sums<T> sums(C, &parts[2 * n * C]);
        T *one = sums.row.data(), *two = one + C;
        over_image(
            height, width,
            [&](Size i, Size j) {
                const T *a = image + i * row + j * C, *b = a + C, *c = a + row, *d = c + C;
                T* to = out + ((i / 2) * (width / 2) + j / 2) * C;
#pragma omp simd
                for (Size k = 0; k < C; k++) {
                    const T da = a[k] - m[k], db = b[k] - m[k], dc = c[k] - m[k], dd = d[k] - m[k];
                    one[k] += (da + db) + (dc + dd);
                    two[k] += (da * da + db * db) + (dc * dc + dd * dd);
                    to[k] = Choice<T>(s[k], a[k], b[k], c[k], d[k]).of(a[k], b[k], c[k], d[k]);
                }
            },
            [&](Size i, Size j) {
                const T* a = image + i * row + j * C;
                for (Size k = 0; k < C; k++) one[k] += a[k] - m[k], two[k] += (a[k] - m[k]) * (a[k] - m[k]);
            },
            [&] { sums.end(); });
    }
    add_up(parts, groups, images, C, sum, square);
}

// y = offset + factor · x + g, where g goes to the element of each window that `pool` chose in x.
template <class T>
void spread(const T* offset, const T* factor, const T* x, const T* g, const T* sign, Size groups, Size images, Size height, Size width,
            Size channels, T* y) {
    const Size row = width * channels, C = channels;
#pragma omp parallel for schedule(static)
    for (Size n = 0; n < groups * images; n++) {
        const T *image = x + n * height * row, *from = g + n * (height / 2) * (width / 2) * C;
        const T *s = sign + n / images * C, *o = offset + n / images * C, *f = factor + n / images * C;
        T* out = y + n * height * row;
        over_image(
            height, width,
            [&](Size i, Size j) {
                const T *a = image + i * row + j * C, *b = a + C, *c = a + row, *d = c + C;
                const T* v = from + ((i / 2) * (width / 2) + j / 2) * C;
                T *ya = out + i * row + j * C, *yb = ya + C, *yc = ya + row, *yd = yc + C;
#pragma omp simd
                for (Size k = 0; k < C; k++) {
                    const Choice<T> chosen(s[k], a[k], b[k], c[k], d[k]);
                    const T above = chosen.below ? T(0) : v[k], below = chosen.below ? v[k] : T(0);
                    ya[k] = o[k] + f[k] * a[k] + (chosen.right_above ? T(0) : above);
                    yb[k] = o[k] + f[k] * b[k] + (chosen.right_above ? above : T(0));
                    yc[k] = o[k] + f[k] * c[k] + (chosen.right_below ? T(0) : below);
                    yd[k] = o[k] + f[k] * d[k] + (chosen.right_below ? below : T(0));
                }
            },
            [&](Size i, Size j) {
                const T* a = image + i * row + j * C;
                T* ya = out + i * row + j * C;
                for (Size k = 0; k < C; k++) ya[k] = o[k] + f[k] * a[k];
            },
            [] {});
    }
}

// sum = Σ v, product = Σ v · x, z = v at the element of each window that `pool` chose in x.
template <class T>
void gather(const T* v, const T* x, const T* sign, Size groups, Size images, Size height, Size width, Size channels, T* sum, T* product,
            T* z) {
    const Size row = width * channels, C = channels;
    std::vector<double> parts(2 * groups * images * C, 0.0);
#pragma omp parallel for schedule(static)
    for (Size n = 0; n < groups * images; n++) {
        const T *image = x + n * height * row, *value = v + n * height * row, *s = sign + n / images * C;
        T *out = z + n * (height / 2) * (width / 2) * C;
        Sums<T> sums(C, &parts[2 * n * C]);
        T *one = sums.row.data(), *two = one + C;
        over_image(
            height, width,
            [&](Size i, Size j) {
                const Size at = i * row + j * C;
                const T *a = image + at, *b = a + C, *c = a + row, *d = c + C;
                const T *va = value + at, *vb = va + C, *vc = va + row, *vd = vc + C;
                T* to = out + ((i / 2) * (width / 2) + j / 2) * C;
#pragma omp simd
                for (Size k = 0; k < C; k++) {
                    one[k] += (va[k] + vb[k]) + (vc[k] + vd[k]);
                    two[k] += (va[k] * a[k] + vb[k] * b[k]) + (vc[k] * c[k] + vd[k] * d[k]);
                    to[k] = Choice<T>(s[k], a[k], b[k], c[k], d[k]).of(va[k], vb[k], vc[k], vd[k]);
                }
            },
            [&](Size i, Size j) {
                const Size at = i * row + j * C;
                for (Size k = 0; k < C; k++) one[k] += value[at + k], two[k] += value[at + k] * image[at + k];
            },
            [&] { sums.end(); });
    }
    add_up(parts, groups, images, C, sum, product);
}

// The windows of a convolution side by side: [images, h, w, kernel, kernel, channels] of [images, height, width, channels]; 0 outside.
template <class T>
void patches(const T* x, Size images, Size height, Size width, Size channels, Size kernel, Size stride, Size padding, T* y) {
    const Size h = (height + 2 * padding - kernel) / stride + 1, w = (width + 2 * padding - kernel) / stride + 1;
#pragma omp parallel for schedule(static)
    for (Size n = 0; n < images; n++)
        for (Size i = 0; i < h; i++)
            for (Size j = 0; j < w; j++)
                for (Size p = 0; p < kernel; p++)
                    for (Size q = 0; q < kernel; q++) {
                        const Size from_i = i * stride + p - padding, from_j = j * stride + q - padding;
                        T* to = y + ((((n * h + i) * w + j) * kernel + p) * kernel + q) * channels;
                        if (from_i < 0 || from_i >= height || from_j < 0 || from_j >= width)
                            std::fill_n(to, channels, T(0));
                        else
                            std::copy_n(x + ((n * height + from_i) * width + from_j) * channels, channels, to);
                    }
}

// The transpose of `patches`: every window's elements are added where they came from.
template <class T>
void fold(const T* y, Size images, Size height, Size width, Size channels, Size kernel, Size stride, Size padding, T* x) {
    const Size h = (height + 2 * padding - kernel) / stride + 1, w = (width + 2 * padding - kernel) / stride + 1;
#pragma omp parallel for schedule(static)
    for (Size n = 0; n < images; n++) {
        std::fill_n(x + n * height * width * channels, height * width * channels, T(0));
        for (Size i = 0; i < h; i++)
            for (Size j = 0; j < w; j++)
                for (Size p = 0; p < kernel; p++)
                    for (Size q = 0; q < kernel; q++) {
                        const Size to_i = i * stride + p - padding, to_j = j * stride + q - padding;
                        if (to_i < 0 || to_i >= height || to_j < 0 || to_j >= width) continue;
                        const T* from = y + ((((n * h + i) * w + j) * kernel + p) * kernel + q) * channels;
                        T* to = x + ((n * height + to_i) * width + to_j) * channels;
#pragma omp simd
                        for (Size k = 0; k < channels; k++) to[k] += from[k];
                    }
    }
}

#define EXPORT(T, kind)                                                                                                                 \
    extern "C" {                                                                                                                        \
    void pool_##kind(const T* x, const T* s, const T* m, Size g, Size n, Size h, Size w, Size c, T* a, T* b, T* z) {                    \
        pool<T>(x, s, m, g, n, h, w, c, a, b, z);                                                                                       \
    }                                                                                                                                   \
    void spread_##kind(const T* o, const T* f, const T* x, const T* v, const T* s, Size g, Size n, Size h, Size w, Size c, T* y) {      \
        spread<T>(o, f, x, v, s, g, n, h, w, c, y);                                                                                     \
    }                                                                                                                                   \
    void gather_##kind(const T* v, const T* x, const T* s, Size g, Size n, Size h, Size w, Size c, T* a, T* b, T* z) {                  \
        gather<T>(v, x, s, g, n, h, w, c, a, b, z);                                                                                     \
    }                                                                                                                                   \
    void patches_##kind(const T* x, Size n, Size h, Size w, Size c, Size k, Size s, Size p, T* y) { patches<T>(x, n, h, w, c, k, s, p, y); } \
    void fold_##kind(const T* y, Size n, Size h, Size w, Size c, Size k, Size s, Size p, T* x) { fold<T>(y, n, h, w, c, k, s, p, x); }  \
    }
EXPORT(float, float32)
EXPORT(double, float64)
