//! The dashboard's picture: what it says, and that it never leaves the terminal's edges.

use super::*;

fn step(step: usize, loss: f64) -> Step {
    Step {
        step,
        loss,
        losses: Default::default(),
        terms: Default::default(),
        learning_rate: 1e-3,
        gradient_norm: 0.75,
        skipped: step == 3,
        expert_imbalance: 1.0,
        router_entropy: 1.0,
        tokens: 4096,
        trained_tokens: 1000,
        tokens_per_second: 5000.0,
        seconds: 1.0,
        epoch: 0,
        peak_memory_bytes: None,
    }
}

fn view(steps: usize, layers: usize) -> View {
    let begin = Begin { step: 10, steps: 210, trained_parameters: 1_500_000, ..Begin::default() };
    let mut view = View { what: "sft".into(), begin: Some(begin), saved: Some(11), ..View::default() };
    for at in 11..11 + steps {
        view.take_step(&Step { skipped: at == 13, ..step(at, 3.0 - at as f64 / 100.0) });
    }
    for (at, loss) in [(10, 3.0), (20, 2.0), (30, 2.5)] {
        view.take_validation(&Validation { step: at, loss, losses: Default::default(), seconds: 1.0 });
    }
    view.load =
        (0..layers).map(|layer| (0..8).map(|e| if e == 0 && layer == 5 { 0.5 } else { 0.07 }).collect()).collect();
    view
}

fn around(rows: usize, columns: usize) -> Around {
    let said = vec!["step 12: warning: a spike".to_owned()];
    Around { rows, columns, elapsed: Duration::from_secs(100), peak_memory: Some(2_000_000_000), said }
}

#[test]
fn the_figures_are_there() {
    let rows = view(50, 4).frame(&around(40, 200));
    let text: String = rows.iter().map(|row| row.text.clone() + "\n").collect();
    for wanted in [
        "sft · step 60 of 210",
        "5 min 00 s left",
        "1.50 M parameters trained",
        "validation 2.5000, best 2.0000 at 20",
        "rate 1.00e-3",
        "gradient 0.750",
        "1 updates left out",
        "5000 tokens/s",
        "peak memory 2.0 GB",
        "saved at step 11",
        "warning: a spike",
        "Ctrl-C saves",
        "loss, steps 11 to 60",
        "29 %",
    ] {
        assert!(text.contains(wanted), "missing {wanted:?}:\n{text}");
    }
    assert_eq!(rows.iter().filter(|row| row.tone == Tone::Warm).count(), 4 + 1, "four layers and one line");
}

#[test]
fn it_fits_any_terminal_at_any_time() {
    for (steps, layers) in [(0, 0), (1, 1), (200, 48)] {
        for (rows, columns) in [(1, 1), (3, 10), (24, 80), (50, 300)] {
            let frame = view(steps, layers).frame(&around(rows, columns));
            assert!(frame.len() <= rows);
            for row in &frame {
                assert!(row.painted(columns, false).chars().count() <= columns, "{row:?}");
            }
        }
    }
    assert!(View::default().frame(&around(24, 80))[0].text.contains("preparing"));
}

#[test]
fn too_many_layers_leave_the_most_uneven_ones() {
    let frame = view(5, 48).frame(&around(24, 80));
    let layers: Vec<&Row> = frame.iter().filter(|row| row.text.contains('▏') && row.tone == Tone::Warm).collect();
    assert!(layers.len() < 48 && layers.iter().any(|row| row.text.starts_with("      5 ▏█")), "{layers:?}");
    assert_eq!(shades(&[0.5, 0.1, 0.4, 0.0], 2), "▓▓");
    assert_eq!(shades(&[0.25, 0.75, 0.0, 0.1], 9), "▒█·░");
}

#[test]
fn colours_are_left_out_where_there_are_none_and_texts_cannot_steer_the_terminal() {
    let row = Row::new(Tone::Curve, "ab\x1b[2Jc");
    assert_eq!(row.painted(3, false), "ab[");
    assert_eq!(row.painted(9, true), "\x1b[36mab[2Jc\x1b[0m");
}
