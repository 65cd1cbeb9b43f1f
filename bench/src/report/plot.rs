//! Figures, as SVG by `plotters`.
//!
//! Every series has a colour of Okabe and Ito's palette, a marker of its own and a dash of its own, so that none needs colour to be
//! told from another. What is ink follows the page (`currentColor`), so one figure serves light, dark and print.

use std::ops::Range;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

/// Size of a figure in its own units; pages scale it.
const SIZE: (u32, u32) = (760, 430);
/// Height of the legend above the plot.
const LEGEND_HEIGHT: i32 = 44;
/// What stands for the page's own ink; replaced in the text of the figure.
const INK: RGBColor = RGBColor(1, 2, 3);
const INK_HEX: &str = "#010203";
/// Okabe and Ito, 2008, without black and yellow; they hold on light and on dark.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(230, 159, 0),
    RGBColor(0, 158, 115),
    RGBColor(213, 94, 0),
    RGBColor(204, 121, 167),
    RGBColor(86, 180, 233),
    RGBColor(128, 128, 128),
];

/// A line through points.
#[derive(Clone, Debug)]
pub(super) struct Series {
    pub(super) name: String,
    /// Ascending in x; all above 0.
    pub(super) points: Vec<(f64, f64)>,
}

/// A figure with logarithmic axes.
pub(super) struct Figure {
    /// For its file and its place on the page.
    pub(super) name: String,
    pub(super) title: String,
    /// `measured`, `injected` or `priced`, and how.
    pub(super) kind: String,
    pub(super) x_label: String,
    pub(super) y_label: String,
    pub(super) x_text: fn(f64) -> String,
    pub(super) y_text: fn(f64) -> String,
    pub(super) series: Vec<Series>,
}

impl Figure {
    /// Whether there is anything to draw.
    pub(super) fn is_empty(&self) -> bool {
        self.series.iter().all(|series| series.points.is_empty())
    }

    /// The figure as SVG.
    pub(super) fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text).map_err(|error| anyhow!("figure {}: {error}", self.name))?;
        Ok(with_title(&text.replace(INK_HEX, "currentColor"), &self.title))
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        let (top, plot) = root.split_vertically(LEGEND_HEIGHT);
        self.legend(&top)?;
        let points = || self.series.iter().flat_map(|series| &series.points);
        let (x, y) = (range(points().map(|point| point.0)), range(points().map(|point| point.1)));
        let mut chart = ChartBuilder::on(&plot)
            .margin_right(24)
            .margin_left(14)
            .x_label_area_size(44)
            .y_label_area_size(76)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        let font = ("sans-serif", 13).into_font().color(&INK);
        chart
            .configure_mesh()
            .x_labels(8)
            .y_labels(8)
            .max_light_lines(0)
            .bold_line_style(INK.mix(0.15))
            .axis_style(INK.mix(0.6))
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_label_formatter(&|x| (self.x_text)(*x))
            .y_label_formatter(&|y| (self.y_text)(*y))
            .draw()?;
        for (index, series) in self.series.iter().enumerate() {
            let style = colour(index).stroke_width(2);
            let line = series.points.iter().copied();
            match index % 3 {
                0 => drop(chart.draw_series(LineSeries::new(line, style))?),
                1 => drop(chart.draw_series(DashedLineSeries::new(line, 8, 4, style))?),
                _ => drop(chart.draw_series(DashedLineSeries::new(line, 2, 4, style))?),
            }
            let area = chart.plotting_area();
            for point in &series.points {
                let at = area.map_coordinate(point);
                marker(&root, index, at)?; // The coordinates are those of the whole figure.
            }
        }
        root.present()?;
        Ok(())
    }

    fn legend<DB: DrawingBackend>(&self, area: &DrawingArea<DB, Shift>) -> Result<(), Box<dyn std::error::Error>>
    where
        DB::ErrorType: 'static,
    {
        let (mut x, mut y) = (16, 12);
        let style = ("sans-serif", 14).into_font().color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
        for (index, series) in self.series.iter().enumerate() {
            // Seven units a letter is what a sans-serif of 14 takes at the most.
            let width = 34 + 7 * i32::try_from(series.name.chars().count())?;
            if x + width > SIZE.0 as i32 && x > 16 {
                (x, y) = (16, y + 20);
            }
            marker(area, index, (x, y))?;
            area.draw(&Text::new(series.name.clone(), (x + 12, y), style.clone()))?;
            x += width;
        }
        Ok(())
    }
}

fn colour(index: usize) -> RGBColor {
    COLOURS[index % COLOURS.len()]
}

/// A shape of its own for each series.
fn marker<DB: DrawingBackend>(
    area: &DrawingArea<DB, Shift>,
    index: usize,
    (x, y): (i32, i32),
) -> Result<(), Box<dyn std::error::Error>>
where
    DB::ErrorType: 'static,
{
    let style = colour(index).filled();
    match index % 5 {
        0 => area.draw(&Circle::new((x, y), 4, style))?,
        1 => area.draw(&TriangleMarker::new((x, y), 5, style))?,
        2 => area.draw(&Rectangle::new([(x - 4, y - 4), (x + 4, y + 4)], style))?,
        3 => area.draw(&Cross::new((x, y), 4, colour(index).stroke_width(2)))?,
        _ => area.draw(&Circle::new((x, y), 4, colour(index).stroke_width(2)))?,
    }
    Ok(())
}

/// A little wider than the values, so that no marker lies on the frame.
fn range(values: impl Iterator<Item = f64> + Clone) -> Range<f64> {
    let low = values.clone().fold(f64::INFINITY, f64::min).max(1e-12);
    let high = values.fold(0.0, f64::max).max(low);
    low / 1.3..high * 1.3
}

/// A figure scales with its page, and says what it is to those who can't see it.
fn with_title(svg: &str, title: &str) -> String {
    let Some((head, rest)) = svg.split_once('>') else { return svg.to_owned() };
    // The first tag may be an XML declaration; the title belongs into the svg element.
    let (before, head, rest) = match head.trim_start().starts_with("<svg") {
        true => (String::new(), head, rest),
        false => match rest.split_once('>') {
            Some((second, rest)) => (format!("{head}>"), second, rest),
            None => return svg.to_owned(),
        },
    };
    format!("{before}{head} role=\"img\">\n<title>{}</title>{rest}", super::page::escaped(title))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure() -> Figure {
        Figure {
            name: "latency".into(),
            title: "Latency <by> size".into(),
            kind: "measured".into(),
            x_label: "bytes".into(),
            y_label: "seconds".into(),
            x_text: |x| format!("{x}"),
            y_text: |y| format!("{y}"),
            series: (0..6)
                .map(|i| Series { name: format!("method {i}"), points: vec![(1024.0, 0.001 * f64::from(i + 1)), (1e6, 0.1)] })
                .collect(),
        }
    }

    #[test]
    fn a_figure_names_every_series_and_follows_the_pages_ink() {
        let svg = figure().svg().expect("drawn");
        for i in 0..6 {
            assert!(svg.contains(&format!("method {i}")));
        }
        assert!(svg.contains("currentColor") && !svg.contains(INK_HEX));
        assert!(svg.contains("<title>Latency &lt;by&gt; size</title>"));
        assert!(svg.contains("role=\"img\""));
    }

    #[test]
    fn a_single_point_is_a_figure_too() {
        let one = Figure { series: vec![Series { name: "one".into(), points: vec![(1.0, 1.0)] }], ..figure() };
        assert!(one.svg().expect("drawn").contains("circle"));
    }
}
