//! Drawings of results, as SVG.

use anyhow::Context as _;
use plotters::{
    coord::ranged1d::Ranged,
    element::{PathElement, Rectangle, Text},
    prelude::{ChartBuilder, IntoDrawingArea as _, IntoFont as _, RGBColor, SVGBackend, TRANSPARENT},
    series::LineSeries,
    style::{
        BLACK, Color as _, WHITE,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    plan::{Drawing, Metric, PERCENTILES, Plot, Section, Unit},
    polling::{Comparison, Phase},
    render::figure,
    results::SectionResult,
};

const SIZE: (u32, u32) = (960, 420);

/// Told apart by people who do not tell all colours apart (Okabe and Ito).
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(150, 150, 150),
    RGBColor(90, 90, 90),
    RGBColor(230, 159, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
];

/// A drawing, or nothing where there is nothing to draw.
pub fn draw(plot: &Plot, section: &Section, result: &SectionResult) -> anyhow::Result<Option<String>> {
    match &plot.drawing {
        Drawing::Bars { cases, metric } => bars(plot.title, &grouped(cases, *metric, section, result), metric.unit),
        Drawing::Lines { cases, axis, metric } => {
            let at = |name: &str| {
                let median = |case| result.summary(case, name, metric.id).map(|summary| summary.median);
                cases.iter().filter_map(|(case, x)| Some((*x, median(case)?))).collect()
            };
            let lines =
                contenders(section, cases.iter().map(|(case, _)| *case)).into_iter().map(|name| (at(&name), name));
            let lines: Vec<Line> = lines.map(|(points, name)| Line { name, points }).collect();
            let names: Vec<(f64, String)> = cases.iter().map(|(_, x)| (*x, crate::render::number(*x))).collect();
            lines_of(plot.title, axis, &lines, &names, metric.unit)
        }
        Drawing::Polling { case } => {
            let Some(comparison) = Comparison::read(result, case) else { return Ok(None) };
            // Each step is ten times as much, and as wide.
            let points = |value: &dyn Fn(&Phase) -> f64| {
                comparison.pushes.iter().map(|(percent, push)| (percent.log10(), value(push))).collect()
            };
            let poll = comparison.poll.together_percent();
            let lines = [
                Line { name: "polling".to_owned(), points: points(&|_| poll) },
                Line { name: "push".to_owned(), points: points(&Phase::together_percent) },
            ];
            let names: Vec<(f64, String)> =
                comparison.pushes.iter().map(|(percent, _)| (percent.log10(), format!("{percent} %"))).collect();
            let title = format!("{}: CPU of API and Tidings, of one core", plot.title);
            lines_of(&title, "users for whom something changes in an interval", &lines, &names, Unit::Percent)
        }
        Drawing::Percentiles { case } => {
            let at = |name: &str| {
                let median = |id| result.summary(case, name, id).map(|summary| summary.median);
                PERCENTILES.iter().filter_map(|(metric, nines)| Some((*nines, median(metric.id)?))).collect()
            };
            let lines = contenders(section, [*case]).into_iter().map(|name| Line { points: at(&name), name });
            let names: Vec<(f64, String)> =
                PERCENTILES.iter().map(|(metric, nines)| (*nines, metric.title.to_owned())).collect();
            lines_of(plot.title, "", &lines.collect::<Vec<_>>(), &names, Unit::Micros)
        }
    }
}

/// Those who take part in any of these cases, in the order of the tables.
fn contenders<'a>(section: &Section, cases: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut names = Vec::new();
    for id in cases {
        let case = section.cases.iter().find(|case| case.id == id);
        for contender in case.map(|case| &case.contenders[..]).unwrap_or_default() {
            if !names.contains(&contender.name) {
                names.push(contender.name.clone());
            }
        }
    }
    names
}

struct Groups {
    names: Vec<String>,
    /// A title, and a figure for each name that has one.
    groups: Vec<(String, Vec<Option<f64>>)>,
}

fn grouped(cases: &[(&str, &str)], metric: Metric, section: &Section, result: &SectionResult) -> Groups {
    let names = contenders(section, cases.iter().map(|(case, _)| *case));
    let of = |case: &str, name: &String| result.summary(case, name, metric.id).map(|summary| summary.median);
    let groups = cases
        .iter()
        .map(|(case, title)| ((*title).to_owned(), names.iter().map(|name| of(case, name)).collect()))
        .collect();
    Groups { names, groups }
}

fn bars(title: &str, Groups { names, groups }: &Groups, unit: Unit) -> anyhow::Result<Option<String>> {
    let highest = groups.iter().flat_map(|(_, values)| values.iter().flatten()).copied().fold(0.0, f64::max);
    if highest <= 0.0 {
        return Ok(None);
    }
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).context("drawing")?;
        let mut chart = ChartBuilder::on(&root)
            .caption(plain(title), ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(28)
            .y_label_area_size(72)
            .build_cartesian_2d(0.0..groups.len() as f64, 0.0..highest * 1.25)
            .context("drawing")?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .y_label_formatter(&|value| figure(*value, unit))
            .light_line_style(TRANSPARENT)
            .draw()
            .context("drawing")?;
        // A group leaves a fifth of its place free.
        let width = 0.8 / names.len() as f64;
        for (number, name) in names.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let bar = |group: usize, value: f64| {
                let left = group as f64 + 0.1 + width * number as f64;
                Rectangle::new([(left, 0.0), (left + width * 0.92, value)], colour.filled())
            };
            let values: Vec<(usize, f64)> =
                groups.iter().enumerate().filter_map(|(at, (_, values))| Some((at, values[number]?))).collect();
            chart
                .draw_series(values.iter().map(|(group, value)| bar(*group, *value)))
                .context("drawing")?
                .label(plain(name))
                .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 14, y + 5)], colour.filled()));
            let style = ("sans-serif", 11).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Bottom));
            let labels = values.iter().map(|(group, value)| {
                let middle = *group as f64 + 0.1 + width * (number as f64 + 0.46);
                Text::new(figure(*value, unit), (middle, *value + highest * 0.01), style.clone())
            });
            chart.draw_series(labels).context("drawing")?;
        }
        let style = ("sans-serif", 13).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        for (at, (title, _)) in groups.iter().enumerate() {
            let (x, y) = chart.backend_coord(&(at as f64 + 0.5, 0.0));
            root.draw(&Text::new(title.clone(), (x, y + 8), style.clone())).context("drawing")?;
        }
        legend(&mut chart)?;
        root.present().context("drawing")?;
    }
    Ok(Some(svg))
}

struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

fn lines_of(
    title: &str,
    axis: &str,
    lines: &[Line],
    names: &[(f64, String)],
    unit: Unit,
) -> anyhow::Result<Option<String>> {
    let points = || lines.iter().flat_map(|line| line.points.iter().copied());
    let highest = points().map(|(_, y)| y).fold(0.0, f64::max);
    if highest <= 0.0 {
        return Ok(None);
    }
    let (first, last) = (names.first().map_or(0.0, |name| name.0), names.last().map_or(1.0, |name| name.0));
    let room = (last - first) * 0.03;
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE).context("drawing")?;
        let mut chart = ChartBuilder::on(&root)
            .caption(plain(title), ("sans-serif", 20))
            .margin(12)
            .x_label_area_size(44)
            .y_label_area_size(72)
            .build_cartesian_2d(first - room..last + room, 0.0..highest * 1.2)
            .context("drawing")?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(0)
            .x_desc(axis)
            .y_label_formatter(&|value| figure(*value, unit))
            .light_line_style(TRANSPARENT)
            .draw()
            .context("drawing")?;
        for (number, line) in lines.iter().filter(|line| !line.points.is_empty()).enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3))
                .context("drawing")?
                .label(plain(&line.name))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 14, y)], colour.stroke_width(3)));
        }
        let style = ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Center, VPos::Top));
        for (x, name) in names {
            let (x, y) = chart.backend_coord(&(*x, 0.0));
            root.draw(&Text::new(name.clone(), (x, y + 8), style.clone())).context("drawing")?;
        }
        legend(&mut chart)?;
        root.present().context("drawing")?;
    }
    Ok(Some(svg))
}

type Chart<'a, 'b, X, Y> =
    plotters::chart::ChartContext<'a, SVGBackend<'b>, plotters::coord::cartesian::Cartesian2d<X, Y>>;

fn legend<'a, 'b, X: Ranged<ValueType = f64>, Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'a, 'b, X, Y>,
) -> anyhow::Result<()>
where
    'b: 'a,
{
    chart
        .configure_series_labels()
        .position(plotters::chart::SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()
        .context("drawing")
}

/// Without the marks of Markdown.
fn plain(text: &str) -> String {
    text.replace('`', "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{plan::DELIVERIES, render::tests::result};

    #[test]
    fn a_drawing_shows_every_contender_and_figure() {
        let section =
            crate::sections::all(crate::sections::Size { is_quick: false, streams_max: usize::MAX }).remove(0);
        let samples: [(&str, &[f64]); 2] = [("Tidings", &[250_000.0]), ("axum `Sse`", &[111_000.0])];
        let result = result(section.id, "1000-w1", DELIVERIES.id, &samples);
        let svg = draw(&section.plots[0], &section, &result).unwrap().unwrap();
        for text in ["Tidings", "axum Sse", "250 k", "111 k", "1,000 streams, window 1"] {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
        let empty = result_without_figures(&result);
        assert_eq!(draw(&section.plots[0], &section, &empty).unwrap(), None);
    }

    fn result_without_figures(result: &SectionResult) -> SectionResult {
        SectionResult { cases: Vec::new(), ..result.clone() }
    }
}
