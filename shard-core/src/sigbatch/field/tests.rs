//! The vectors against the portable lanes, on random limbs and on limbs at the edge of their bounds.

use proptest::prelude::*;

use super::portable::One;
use super::*;

/// Largest limb of an element in memory.
const LARGEST: u64 = (1 << 51) + (1 << 45);

fn limb() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..=LARGEST,
        2 => Just(LARGEST),
        1 => Just(0),
        1 => Just(LOW_51),
        1 => Just(1 << 51),
        1 => Just(LOW_51 - 18),
        1 => Just((1 << 26) - 1),
        1 => Just(1 << 25),
    ]
}

fn element() -> impl Strategy<Value = Element> {
    let same = limb().prop_map(|limb| Element([limb; 5]));
    let p = Element([LOW_51 - 18, LOW_51, LOW_51, LOW_51, LOW_51]);
    prop_oneof![
        6 => proptest::array::uniform5(limb()).prop_map(Element),
        2 => same,
        1 => Just(p),
        1 => Just(Element::SQRT_M1),
    ]
}

/// Calculations whose operands have the largest weights that are allowed, with a name for each.
const CALCULATIONS: usize = 9;

struct Calculate<'a> {
    a: &'a [Element],
    b: &'a [Element],
    c: &'a [Element],
    mask: u32,
}

impl Calculate<'_> {
    #[inline(always)]
    fn on<L: Lanes>(&self, cpu: L::Cpu, from: usize) -> [[Element; MAX_LANES]; CALCULATIONS] {
        let load = |elements: &[Element]| L::load(cpu, &elements[from..]);
        let (a, b, c) = (load(self.a), load(self.b), load(self.c));
        let results = [
            a.mul(b),
            a.square(),
            a.sub(b).carry(),
            a.add(a).sub(b).mul(b.sub(c)),
            a.sub(b).square(),
            a.add(b).add(c).mul(a.add(b).add(c)),
            a.add(b).square(),
            a.select(b, self.mask >> from),
            L::splat(cpu, &self.a[0]).mul(c),
        ];
        results.map(|result| {
            let mut out = [Element::ZERO; MAX_LANES];
            result.store(&mut out);
            out
        })
    }
}

impl Kernel for &Calculate<'_> {
    type Output = [[Element; MAX_LANES]; CALCULATIONS];

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) -> Self::Output {
        self.on::<L>(cpu, 0)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 2000 }))]
    #[test]
    fn vectors_calculate_as_one_does(
        a in proptest::collection::vec(element(), MAX_LANES),
        b in proptest::collection::vec(element(), MAX_LANES),
        c in proptest::collection::vec(element(), MAX_LANES),
        mask in 0..256u32,
    ) {
        let calculate = Calculate { a: &a, b: &b, c: &c, mask };
        let one: Vec<_> = (0..MAX_LANES).map(|from| calculate.on::<One>((), from)).collect();
        for backend in Backend::available() {
            let results = backend.run(&calculate);
            for (number, result) in results.iter().enumerate() {
                for (lane, value) in result.iter().enumerate().take(backend.lanes()) {
                    let expected = one[lane][number][0];
                    prop_assert_eq!(value.to_bytes(), expected.to_bytes(), "{} {} {}", backend.name(), number, lane);
                    prop_assert!(value.0.iter().all(|&limb| limb <= LARGEST), "{} {}", backend.name(), number);
                }
            }
        }
    }
}

/// Rows in, a sum, rows out.
struct MoveRows<'a> {
    rows: &'a mut [Extended],
    niels: &'a Niels,
    from: [u32; MAX_LANES],
    to: [u32; MAX_LANES],
    negative: u32,
}

impl Kernel for MoveRows<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Rows>(self, cpu: L::Cpu) {
        L::prefetch(self.rows, &self.from);
        let [x, y, z, t] = L::load_points(cpu, self.rows, &self.from);
        let [sum, difference, product] = L::signed(cpu, self.niels, self.negative);
        let out = [product.mul(x), sum.mul(y), z, difference.mul(t)];
        L::store_points(out, self.rows, &self.to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 500 }))]
    #[test]
    fn vectors_move_rows_as_one_does(
        rows in proptest::collection::vec(proptest::array::uniform4(element()).prop_map(Extended), 32),
        niels in proptest::array::uniform3(element()).prop_map(Niels),
        from in proptest::array::uniform8(0..16u32),
        to in Just((16..32u32).collect::<Vec<_>>()).prop_shuffle(),
        negative in 0..256u32,
    ) {
        let to: [u32; MAX_LANES] = to[..MAX_LANES].try_into().expect("16 places");
        for backend in Backend::available() {
            let (mut expected, mut moved) = (rows.clone(), rows.clone());
            for lane in 0..backend.lanes() {
                let (from, to) = ([from[lane]; MAX_LANES], [to[lane]; MAX_LANES]);
                let negative = negative >> lane;
                MoveRows { rows: &mut expected, niels: &niels, from, to, negative }.run::<One>(());
            }
            backend.run(MoveRows { rows: &mut moved, niels: &niels, from, to, negative });
            let bytes = |rows: &[Extended]| rows.iter().map(|row| row.0.map(Element::to_bytes)).collect::<Vec<_>>();
            prop_assert_eq!(bytes(&moved), bytes(&expected), "{}", backend.name());
        }
    }

    #[test]
    fn bytes_are_what_they_say(mut bytes in any::<[u8; 32]>()) {
        let element = Element::from_bytes(&bytes);
        bytes[31] &= 0x7f;
        // Only values from p on change.
        if bytes[1..31] != [0xff; 30] {
            prop_assert_eq!(element.to_bytes(), bytes);
        }
    }
}

#[test]
#[should_panic(expected = "out of bounds")]
fn a_row_that_does_not_exist_is_the_callers_mistake() {
    let mut rows = [Extended::IDENTITY; 4];
    let to = [4; MAX_LANES];
    let (from, niels) = ([0; MAX_LANES], &Niels::IDENTITY);
    Backend::PORTABLE.run(MoveRows { rows: &mut rows, niels, from, to, negative: 0 });
}

#[test]
fn no_backend_reads_or_writes_past_the_rows() {
    for backend in Backend::available() {
        for wrong in 0..backend.lanes() {
            for (from, to) in [(4, 0), (0, 4), (u32::MAX, 0)] {
                let (mut from_rows, mut to_rows) = ([0; MAX_LANES], [1; MAX_LANES]);
                (from_rows[wrong], to_rows[wrong]) = (from, to);
                let outcome = std::panic::catch_unwind(|| {
                    let mut rows = [Extended::IDENTITY; 4];
                    let niels = &Niels::IDENTITY;
                    backend.run(MoveRows {
                        rows: &mut rows,
                        niels,
                        from: from_rows,
                        to: to_rows,
                        negative: 0,
                    });
                });
                assert!(outcome.is_err(), "{} lane {wrong}", backend.name());
            }
        }
    }
}

#[test]
fn constants() {
    let one = |x: &Element| One::splat((), x);
    let minus = |x: u64| one(&Element::ZERO).sub(one(&Element([x, 0, 0, 0, 0])));
    let bytes = |x: One| x.element().to_bytes();
    let d = one(&Element::D);
    assert_eq!(bytes(d.mul(one(&Element([121_666, 0, 0, 0, 0])))), bytes(minus(121_665)));
    assert_eq!(bytes(d.add(d)), Element::D2.to_bytes());
    assert_eq!(bytes(one(&Element::SQRT_M1).square()), bytes(minus(1)));
}
