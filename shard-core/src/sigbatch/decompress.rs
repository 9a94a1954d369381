//! From 32 bytes to a point, several at a time: a square root costs some 250 squares, each waiting for the one before, so
//! the lanes of two vectors take one each.

use curve25519_dalek::constants::ED25519_BASEPOINT_COMPRESSED;

use super::field::{Backend, Element, Kernel, Lanes, Pair, Rows};
use super::point::{self, Niels};

/// Most encodings that one call takes: what fills the lanes of any backend twice.
pub(super) const GROUP: usize = 16;

/// The points that `encodings` stand for, at most [`GROUP`] of them.
///
/// ZIP-215 accepts two kinds of encodings that RFC 8032 forbids: `y ≥ p`, and `x = 0` with the sign bit set. So does this.
pub(super) fn decompress(backend: Backend, encodings: &[[u8; 32]]) -> [Option<Niels>; GROUP] {
    assert!(encodings.len() <= GROUP);
    backend.run(Decompress(encodings))
}

/// The base point B.
pub(super) fn basepoint(backend: Backend) -> Niels {
    decompress(backend, &[ED25519_BASEPOINT_COMPRESSED.to_bytes()])[0].expect("the base point is a point")
}

struct Decompress<'a>(&'a [[u8; 32]]);

impl Kernel for Decompress<'_> {
    type Output = [Option<Niels>; GROUP];

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output {
        let mut points = [None; GROUP];
        let lanes = Pair::<L>::N;
        for (encodings, points) in self.0.chunks(lanes).zip(points.chunks_mut(lanes)) {
            if encodings.len() <= L::N {
                decompress_lanes::<L>(cpu, encodings, points);
            } else {
                decompress_lanes::<Pair<L>>(cpu, encodings, points);
            }
        }
        points
    }
}

/// RFC 8032, section 5.1.3, on lanes: x² = (y² − 1) / (dy² + 1) = u/v, x = uv³(uv⁷)^((p−5)/8) or that times √−1.
#[inline(always)]
fn decompress_lanes<L: Lanes>(cpu: L::Cpu, encodings: &[[u8; 32]], points: &mut [Option<Niels>]) {
    let mut buffer = [Element::ONE; GROUP];
    for (y, encoding) in buffer.iter_mut().zip(encodings) {
        *y = Element::from_bytes(encoding);
    }
    let y = L::load(cpu, &buffer);
    let one = L::splat(cpu, &Element::ONE);
    let yy = y.square();
    let u = yy.sub(one).carry();
    let v = yy.mul(L::splat(cpu, &Element::D)).add(one);
    let v3 = v.square().mul(v);
    let v7 = v3.square().mul(v);
    let root = power_p58(u.mul(v7)).mul(v3).mul(u);

    // The root is right if v·root² = u; times √−1 it is, if v·root² = −u.
    let check = root.square().mul(v);
    let plain = zeros(check.sub(u).carry(), &mut buffer);
    let turned = zeros(check.add(u).carry(), &mut buffer);
    let x = root.select(root.mul(L::splat(cpu, &Element::SQRT_M1)), turned);

    x.store(&mut buffer);
    let mut negative = 0;
    for (lane, encoding) in encodings.iter().enumerate() {
        let odd = buffer[lane].to_bytes()[0] & 1;
        negative |= u32::from(odd ^ encoding[31] >> 7) << lane;
    }
    let x = x.select(L::splat(cpu, &Element::ZERO).sub(x).carry(), negative);
    let niels = to_niels(cpu, x, y);
    for (lane, point) in points.iter_mut().enumerate().take(encodings.len()) {
        *point = ((plain | turned) >> lane & 1 == 1).then_some(niels[lane]);
    }
}

/// y + x, y − x and 2dxy of tight x and y, by lane.
#[inline(always)]
fn to_niels<L: Lanes>(cpu: L::Cpu, x: L, y: L) -> [Niels; GROUP] {
    let mut out = [Niels::IDENTITY; GROUP];
    let mut buffer = [Element::ZERO; GROUP];
    let product = x.mul(y).mul(L::splat(cpu, &Element::D2));
    for (i, value) in [y.add(x).carry(), y.sub(x).carry(), product].into_iter().enumerate() {
        value.store(&mut buffer);
        for (point, value) in out.iter_mut().zip(&buffer) {
            point.0[i] = *value;
        }
    }
    out
}

/// A bit for each lane that is zero. The `buffer` is scratch.
#[inline(always)]
fn zeros<L: Lanes>(x: L, buffer: &mut [Element; GROUP]) -> u32 {
    x.store(buffer);
    let mut bits = 0;
    for (lane, x) in buffer.iter().enumerate().take(L::N) {
        bits |= u32::from(x.to_bytes() == [0; 32]) << lane;
    }
    bits
}

/// x^(2^`count`).
#[inline(always)]
fn squares<L: Lanes>(mut x: L, count: usize) -> L {
    for _ in 0..count {
        x = x.square();
    }
    x
}

/// x^(2²⁵⁰ − 1), and x¹¹, by which both exponents below end.
#[inline(always)]
fn power_250<L: Lanes>(x: L) -> (L, L) {
    let x2 = x.square();
    let x9 = squares(x2, 2).mul(x);
    let x11 = x9.mul(x2);
    let x_5 = x11.square().mul(x9); // 2⁵ − 1
    let x_10 = squares(x_5, 5).mul(x_5);
    let x_20 = squares(x_10, 10).mul(x_10);
    let x_40 = squares(x_20, 20).mul(x_20);
    let x_50 = squares(x_40, 10).mul(x_10);
    let x_100 = squares(x_50, 50).mul(x_50);
    let x_200 = squares(x_100, 100).mul(x_100);
    (squares(x_200, 50).mul(x_50), x11)
}

/// x^((p − 5)/8) = x^(2²⁵² − 3).
#[inline(always)]
fn power_p58<L: Lanes>(x: L) -> L {
    squares(power_250(x).0, 2).mul(x)
}

/// 1/x = x^(p − 2) = x^(2²⁵⁵ − 21); 0 for 0.
#[inline(always)]
pub(super) fn invert<L: Lanes>(x: L) -> L {
    let (x_250, x11) = power_250(x);
    squares(x_250, 5).mul(x11)
}

/// `[2¹²⁸]P` for each P of `points`, at most [`GROUP`].
pub(super) fn shift_128(backend: Backend, points: &[Niels]) -> [Niels; GROUP] {
    assert!(points.len() <= GROUP);
    backend.run(Shift(points))
}

struct Shift<'a>(&'a [Niels]);

impl Kernel for Shift<'_> {
    type Output = [Niels; GROUP];

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output {
        let mut out = [Niels::IDENTITY; GROUP];
        for (points, out) in self.0.chunks(L::N).zip(out.chunks_mut(L::N)) {
            let mut buffer = [[Element::ONE; GROUP]; 3];
            for (lane, point) in points.iter().enumerate() {
                for (row, value) in buffer.iter_mut().zip(point.0) {
                    row[lane] = value;
                }
            }
            let niels = [L::load(cpu, &buffer[0]), L::load(cpu, &buffer[1]), L::load(cpu, &buffer[2])];
            let mut sum = point::add_niels(point::identity::<L>(cpu), niels);
            for _ in 0..128 {
                sum = point::double(sum);
            }
            let [x, y, z, _] = sum;
            let inverse = invert(z);
            let shifted = to_niels(cpu, x.mul(inverse), y.mul(inverse));
            out.copy_from_slice(&shifted[..out.len()]);
        }
        out
    }
}
