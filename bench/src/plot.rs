//! Line charts as SVG, with nothing but text.

use std::fmt::Write as _;

/// How values become places along an axis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// From zero, in even steps.
    Linear,
    /// From zero, in even steps of whole numbers.
    Count,
    /// In powers of ten.
    Log,
}

/// A named line.
#[derive(Clone, PartialEq, Debug)]
pub struct Series {
    /// Stands in the legend.
    pub name: String,
    /// Its points; drawn in order of x.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Above it.
    pub title: String,
    /// Below it, and how x is laid out. Values on a [`Scale::Log`] are greater than zero.
    pub x: (String, Scale),
    /// Beside it; y is linear.
    pub y: String,
    /// Its lines, with a dot at every point.
    pub series: Vec<Series>,
}

const HEAD: &str = r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 440">
<style>text { font: 12px sans-serif } polyline { fill: none; stroke-width: 2 }</style>
<rect width="760" height="440" fill="white"/>
"#;
/// Left, top, right, bottom of the field that the lines are drawn in.
const FIELD: [f64; 4] = [70.0, 46.0, 560.0, 390.0];
/// Told apart by people who do not see all colours (Okabe and Ito).
const COLOURS: [&str; 7] =
    ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"];

/// One axis: values from `low` to `high` on places from `from` to `to`.
#[derive(Clone, Copy, Debug)]
struct Axis {
    scale: Scale,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    /// Holds all of `values`, with round ends.
    fn of(values: impl Iterator<Item = f64>, scale: Scale, from: f64, to: f64) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite() && (scale != Scale::Log || *v > 0.0))
            .fold((f64::INFINITY, 0.0), |(low, high), v| (f64::min(low, v), f64::max(high, v)));
        let (low, high) = match scale {
            Scale::Linear | Scale::Count => {
                let step = scale.step(high);
                (0.0, if high > 0.0 { (high / step).ceil() * step } else { 1.0 })
            }
            Scale::Log if low.is_finite() => {
                let low = 10f64.powf(low.log10().floor());
                (low, 10f64.powf(high.log10().ceil()).max(low * 10.0))
            }
            Scale::Log => (1.0, 10.0),
        };
        Self { scale, low, high, from, to }
    }

    fn place(&self, value: f64) -> f64 {
        let share = match self.scale {
            Scale::Linear | Scale::Count => (value - self.low) / (self.high - self.low),
            Scale::Log => (value / self.low).log10() / (self.high / self.low).log10(),
        };
        self.from + share * (self.to - self.from)
    }

    fn ticks(&self) -> Vec<f64> {
        match self.scale {
            Scale::Linear | Scale::Count => {
                let step = self.scale.step(self.high);
                (0..=(self.high / step).round() as u32).map(|n| f64::from(n) * step).collect()
            }
            Scale::Log => {
                let (first, last) = (self.low.log10().round(), self.high.log10().round());
                (first as i32..=last as i32).map(|power| 10f64.powi(power)).collect()
            }
        }
    }
}

impl Scale {
    /// 1, 2 or 5 times a power of ten, so that five to ten of it reach `high`.
    fn step(self, high: f64) -> f64 {
        if high <= 0.0 {
            return 1.0;
        }
        let power = 10f64.powf((high / 5.0).log10().floor());
        let step = match high / 5.0 / power {
            n if n < 2.0 => power,
            n if n < 5.0 => 2.0 * power,
            _ => 5.0 * power,
        };
        if self == Self::Count { step.max(1.0) } else { step }
    }
}

/// 1000 as `1k`, 1000000 as `1M`.
fn short(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{}M", v / 1e6),
        v if v >= 1e3 => format!("{}k", v / 1e3),
        v => format!("{}", (v * 1e6).round() / 1e6),
    }
}

fn text(out: &mut String, (x, y): (f64, f64), style: &str, text: &str) {
    let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    // Writing to a String cannot fail.
    let _ = writeln!(out, "<text x=\"{x:.1}\" y=\"{y:.1}\" {style}>{text}</text>");
}

fn line(out: &mut String, points: &[(f64, f64)], colour: &str) {
    let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let points = points.join(" ");
    let _ = writeln!(out, "<polyline points=\"{points}\" stroke=\"{colour}\"/>");
}

impl Chart {
    /// The chart as an SVG document.
    pub fn svg(&self) -> String {
        let [left, top, right, bottom] = FIELD;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let x = Axis::of(points().map(|point| point.0), self.x.1, left, right);
        let y = Axis::of(points().map(|point| point.1), Scale::Linear, bottom, top);
        let mut out = HEAD.to_owned();
        let centred = "text-anchor=\"middle\"";
        let middle = f64::midpoint(left, right);
        text(&mut out, (middle, 26.0), centred, &self.title);
        text(&mut out, (middle, bottom + 38.0), centred, &self.x.0);
        text(&mut out, (12.0, top - 12.0), "", &self.y);
        for tick in x.ticks() {
            let at = x.place(tick);
            text(&mut out, (at, bottom + 18.0), centred, &short(tick));
            line(&mut out, &[(at, top), (at, bottom)], "#dddddd");
        }
        for tick in y.ticks() {
            let at = y.place(tick);
            text(&mut out, (left - 8.0, at + 4.0), "text-anchor=\"end\"", &short(tick));
            line(&mut out, &[(left, at), (right, at)], "#dddddd");
        }
        for (place, series) in self.series.iter().enumerate() {
            let colour = COLOURS[place % COLOURS.len()];
            let mut points = series.points.clone();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let placed: Vec<_> = points.iter().map(|p| (x.place(p.0), y.place(p.1))).collect();
            line(&mut out, &placed, colour);
            for (x, y) in placed {
                let _ = writeln!(
                    out,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\"/>"
                );
            }
            let legend = (right + 16.0, top + 10.0 + 20.0 * place as f64);
            text(&mut out, legend, &format!("fill=\"{colour}\""), &series.name);
        }
        out.push_str("</svg>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axis(values: &[f64], scale: Scale) -> Axis {
        Axis::of(values.iter().copied(), scale, 100.0, 200.0)
    }

    #[test]
    fn a_logarithmic_axis_gives_every_power_of_ten_the_same_room() {
        let axis = axis(&[1.0, 64_000.0, 1e6], Scale::Log);
        assert_eq!(axis.ticks(), [1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6]);
        assert_eq!((axis.place(1.0), axis.place(1e6)), (100.0, 200.0));
        assert!((axis.place(1e3) - 150.0).abs() < 1e-9);
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_round_number_above_the_highest() {
        for (high, end) in [(7.3, 8.0), (10.0, 10.0), (327.0, 350.0), (0.9, 0.9), (104.0, 120.0)] {
            let axis = axis(&[high / 2.0, high], Scale::Linear);
            assert!((axis.high - end).abs() < 1e-9, "{high}: {axis:?}");
            assert_eq!(axis.place(0.0), 100.0);
            assert!((5..=11).contains(&axis.ticks().len()), "{:?}", axis.ticks());
        }
    }

    #[test]
    fn whole_numbers_are_counted_in_whole_steps() {
        let axis = axis(&[1.0, 2.0], Scale::Count);
        assert_eq!(axis.ticks(), [0.0, 1.0, 2.0]);
    }

    #[test]
    fn nothing_to_draw_is_still_a_chart() {
        for scale in [Scale::Linear, Scale::Count, Scale::Log] {
            let axis = axis(&[], scale);
            assert!(axis.low < axis.high && axis.ticks().len() > 1, "{axis:?}");
        }
        let one = axis(&[1.0], Scale::Log);
        assert!(one.place(1.0).is_finite());
    }

    #[test]
    fn every_series_is_drawn_from_left_to_right_and_named() {
        let series = |name: &str, points: &[(f64, f64)]| Series {
            name: name.to_owned(),
            points: points.to_vec(),
        };
        let chart = Chart {
            title: "a <b> & c".to_owned(),
            x: ("flows".to_owned(), Scale::Log),
            y: "ns".to_owned(),
            series: vec![
                series("one", &[(1e3, 50.0), (1.0, 100.0)]),
                series("two", &[]),
                series("three", &[(10.0, 20.0)]),
            ],
        };
        let svg = chart.svg();
        assert!(svg.contains("a &lt;b&gt; &amp; c") && svg.contains(">one<"));
        assert!(svg.contains("points=\"70.0,46.0 560.0,218.0\""), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 3, "a series of one point is seen, too");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}
