//! Pictures of what was measured, as SVG.

use std::fmt;

use anyhow::anyhow;
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};

const SIZE: (u32, u32) = (960, 540);
const FONT: (&str, i32) = ("sans-serif", 15);

/// Colours that are told apart by those who do not see all of them (Okabe and Ito).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

/// One line of a picture.
#[derive(Debug, Clone)]
pub struct Curve {
    /// What it is called.
    pub name: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

impl Curve {
    /// A curve of latencies, for [`latency_svg`].
    pub fn of_latency(name: impl Into<String>, report: &crate::LatencyReport) -> Self {
        Self { name: name.into(), points: report.curve.iter().map(|(at, micros)| (*at, *micros as f64)).collect() }
    }

    /// A curve of memory, for [`memory_svg`].
    pub fn of_memory(name: impl Into<String>, samples: impl IntoIterator<Item = (f64, u64)>) -> Self {
        Self { name: name.into(), points: samples.into_iter().map(|(at, bytes)| (at, bytes as f64)).collect() }
    }
}

/// Latencies by percentile, both axes logarithmic: points are percentiles and microseconds. What is
/// seen on the right is what one in a hundred, a thousand, ten thousand has to wait.
pub fn latency_svg(title: &str, curves: &[Curve]) -> anyhow::Result<String> {
    const RARE_MAX: f64 = 1e6;
    let rarity = |percent: f64| (100.0 / (100.0 - percent).max(100.0 / RARE_MAX)).min(RARE_MAX);
    let mut shown: Vec<Curve> = Vec::new();
    for curve in curves {
        let mut points: Vec<(f64, f64)> =
            curve.points.iter().map(|(percent, micros)| (rarity(*percent), (micros / 1000.0).max(0.001))).collect();
        // The longest has no place on such an axis: it stands a little to the right of the one before.
        if let [.., before, last] = points.as_mut_slice() {
            last.0 = last.0.min(before.0 * 2.0);
        }
        shown.push(Curve { name: curve.name.clone(), points });
    }
    let all = || shown.iter().flat_map(|curve| curve.points.iter().copied());
    let right = all().map(|(x, _)| x).fold(10.0, f64::max);
    let (low, high) = all().fold((f64::MAX, 0.001_f64), |(low, high), (_, y)| (low.min(y), high.max(y)));
    let low = low.min(high / 2.0);
    let percent = |x: &f64| format!("{} %", (100.0 - 100.0 / x) as f32);
    let axes = Axes { x: "percentile", y: "ms", x_label: &percent, y_label: &|y| format!("{}", *y as f32) };
    draw(title, &shown, (1.0..right * 1.1).log_scale(), (low * 0.8..high * 1.25).log_scale(), &axes)
}

/// Memory over time: points are seconds and bytes.
pub fn memory_svg(title: &str, curves: &[Curve]) -> anyhow::Result<String> {
    let shown: Vec<Curve> = curves
        .iter()
        .map(|curve| Curve {
            name: curve.name.clone(),
            points: curve.points.iter().map(|(at, bytes)| (*at, bytes / f64::from(1 << 20))).collect(),
        })
        .collect();
    let all = || shown.iter().flat_map(|curve| curve.points.iter().copied());
    let right = all().map(|(x, _)| x).fold(1.0, f64::max);
    let high = all().map(|(_, y)| y).fold(1.0, f64::max);
    let axes = Axes { x: "s", y: "MiB", x_label: &|x| format!("{x:.0}"), y_label: &|y| format!("{y:.0}") };
    draw(title, &shown, 0.0..right, 0.0..high * 1.1, &axes)
}

struct Axes<'a> {
    x: &'a str,
    y: &'a str,
    x_label: &'a dyn Fn(&f64) -> String,
    y_label: &'a dyn Fn(&f64) -> String,
}

fn draw<X, Y>(title: &str, curves: &[Curve], x: X, y: Y, axes: &Axes<'_>) -> anyhow::Result<String>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: ValueFormatter<f64>,
    Y::CoordDescType: ValueFormatter<f64>,
{
    let failed = |error: &dyn fmt::Display| anyhow!("drawing: {error}");
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(|error| failed(&error))?;
        let mut chart = ChartBuilder::on(&area)
            .caption(title, ("sans-serif", 20))
            .margin(16)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(x, y)
            .map_err(|error| failed(&error))?;
        chart
            .configure_mesh()
            .x_desc(axes.x)
            .y_desc(axes.y)
            .label_style(FONT)
            .axis_desc_style(FONT)
            .x_label_formatter(axes.x_label)
            .y_label_formatter(axes.y_label)
            .draw()
            .map_err(|error| failed(&error))?;
        for (curve, colour) in curves.iter().zip(COLOURS.iter().cycle()) {
            let style = colour.stroke_width(2);
            chart
                .draw_series(LineSeries::new(curve.points.iter().copied(), style))
                .map_err(|error| failed(&error))?
                .label(&curve.name)
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 20, y)], style));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(FONT)
            .background_style(WHITE.mix(0.85))
            .border_style(BLACK.mix(0.3))
            .draw()
            .map_err(|error| failed(&error))?;
        area.present().map_err(|error| failed(&error))?;
    }
    Ok(svg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_curve_is_drawn_and_named() {
        let curve = |name: &str, factor: f64| Curve {
            name: name.to_owned(),
            points: [(0.0, 20.0), (50.0, 30.0), (99.0, 900.0), (100.0, 5000.0)].map(|(x, y)| (x, y * factor)).to_vec(),
        };
        let svg = latency_svg("latency <of> all", &[curve("first", 1.0), curve("second", 3.0)]).unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("first") && svg.contains("second"), "{svg}");
        assert!(svg.contains("latency &lt;of&gt; all") && svg.contains("99 %"), "{svg}");
        for colour in ["#0072B2", "#D55E00"] {
            assert_eq!(svg.matches(colour).count(), 2, "a curve and its key: {svg}");
        }
    }

    #[test]
    fn there_may_be_nothing_to_draw() {
        let nothing = Curve { name: "none".to_owned(), points: Vec::new() };
        assert!(latency_svg("x", std::slice::from_ref(&nothing)).is_ok());
        assert!(memory_svg("x", &[nothing]).is_ok());
    }
}
