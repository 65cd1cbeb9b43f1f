//! `zipline bench report`, from raw files of this test's making.
#![allow(missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

fn machine(cpu: &str) -> Value {
    json!({ "cpu": cpu, "cores": 2, "memory_bytes": 25_276_000_000u64, "kernel": "6.18.0", "congestion_default": "bbr",
            "shmem_huge_pages": "never", "release": "0.1.0" })
}

fn summary(median: f64) -> Value {
    json!({ "samples": 2, "median": median, "p99": median * 1.2, "low": median * 0.9, "high": median * 1.1 })
}

fn app_row(app: &str, method: &str, seconds: f64, times_ours: Option<f64>) -> Value {
    let stores = method != "inline";
    let sample = |seconds: f64| {
        json!({ "round": 1, "seconds": seconds, "functions": [["driver", seconds], ["worker", seconds / 2.0]],
                "puts": if stores { 7 } else { 0 }, "gets": if stores { 7 } else { 0 },
                "put_bytes": if stores { 6_000_000 } else { 0 }, "got_bytes": if stores { 6_000_000 } else { 0 },
                "along_bytes": 0, "put_seconds": 0.1, "get_seconds": 0.1, "stored_byte_seconds": 600_000.0, "body_bytes_max": 100,
                "holds": [{ "function": "worker", "seconds": 0.2, "byte_seconds": 1.2e6 }] })
    };
    let mut row = json!({ "app": app, "variant": "parallel", "start": "warm", "method": method, "seconds": summary(seconds),
                          "function_seconds": seconds * 1.5, "samples": [sample(seconds), sample(seconds * 1.1)] });
    if let Some(times) = times_ours {
        row["times_ours"] = json!({ "median": times, "low": times * 0.95, "high": times * 1.05, "samples": 2 });
    }
    row
}

fn apps_file(folder: &Path, name: &str, cpu: &str) -> PathBuf {
    let methods: Vec<Value> = [("zipline", "zipline"), ("inline", "inline"), ("s3-standard", "s3"), ("redis", "redis")]
        .iter()
        .map(|(name, transfer)| json!({ "name": name, "transfer": transfer, "description": format!("<{name}> & co") }))
        .collect();
    let rows: Vec<Value> = ["video", "stacking"]
        .iter()
        .flat_map(|app| {
            [
                app_row(app, "zipline", 0.5, None),
                app_row(app, "inline", 0.4, Some(0.8)),
                app_row(app, "s3-standard", 1.4, Some(2.8)),
                app_row(app, "redis", 0.52, Some(1.04)),
            ]
        })
        .collect();
    let file = json!({ "schema": 1, "kind": "apps", "mode": "quick", "size": "tiny", "seed": 42, "machine": machine(cpu), "network": "loopback",
                       "interrupted": false, "methods": methods, "missing": [{ "method": "s3-express", "reason": "no server" }],
                       "stores": { "s3-standard": { "puts": 9, "failed": 12, "throttled": 11 } }, "workloads": [], "refused": [], "rows": rows });
    write(folder, name, &file)
}

fn micro_file(folder: &Path, name: &str, cpu: &str) -> PathBuf {
    let mut rows = Vec::new();
    for (pattern, degrees) in [("pipeline", &[1u32][..]), ("scatter", &[1, 4])] {
        for size in [1024u64, 1_048_576] {
            for degree in degrees {
                for (method, times) in [("zipline", None), ("redis", Some(1.5))] {
                    let seconds = size as f64 * f64::from(*degree) / 1e9 + 1e-3;
                    let mut row = json!({ "pattern": pattern, "size_bytes": size, "degree": degree, "method": method, "seconds": summary(seconds),
                                          "gib_per_second": 0.5, "puts": 1, "gets": 1, "raw_seconds": [seconds] });
                    if let Some(times) = times {
                        row["times_ours"] = json!({ "median": times, "low": times, "high": times });
                    }
                    rows.push(row);
                }
            }
        }
    }
    for (pattern, low) in [("call", 0.96), ("plain-call", 0.94)] {
        rows.push(json!({ "pattern": pattern, "size_bytes": 1024, "degree": 1, "method": "inline", "seconds": summary(1e-3),
                          "gib_per_second": 0.1, "puts": 0, "gets": 0, "raw_seconds": [1e-3],
                          "times_ours": { "median": 0.97, "low": low, "high": 1.0, "samples": 100 } }));
    }
    let file = json!({ "schema": 1, "kind": "micro", "mode": "quick", "seed": 42, "machine": machine(cpu), "network": "loopback",
                       "interrupted": true, "methods": [], "refused": [], "rows": rows });
    write(folder, name, &file)
}

fn write(folder: &Path, name: &str, file: &Value) -> PathBuf {
    std::fs::create_dir_all(folder).expect("a folder");
    let path = folder.join(name);
    std::fs::write(&path, file.to_string()).expect("a raw file");
    path
}

fn report(state: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_zipline-bench"));
    command.arg("report").args(arguments).env("XDG_STATE_HOME", state).current_dir(state);
    command.output().expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_newest_raw_files_become_one_page_that_needs_nothing_else() {
    let folder = TempDir::new().expect("a folder");
    let raw = folder.path().join("zipline/bench");
    apps_file(&raw, "apps-100.json", "old");
    apps_file(&raw, "apps-2000.json", "this one");
    micro_file(&raw, "micro-1500.json", "this one");
    let output = report(folder.path(), &["--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let written: Value = serde_json::from_slice(&output.stdout).expect("one document");
    let html = std::fs::read_to_string(folder.path().join(written["html"].as_str().expect("a path"))).expect("the page");
    assert!(html.contains("this one") && !html.contains(">old<"), "the newest of each kind");
    for reference in ["src=", "href=\"h", "href=\"/", "url(", "@import", "<script"] {
        assert!(!html.contains(reference), "{reference} leaves the page");
    }
    assert!(html.contains("&lt;redis&gt; &amp; co"), "text from files is no markup");
    assert!(html.contains("<code>zipline bench apps</code>") && !html.contains('`'), "commands are set as code");
    for id in ["headline", "claims", "targets", "losses", "bill", "micro"] {
        assert!(html.contains(&format!("<section id=\"{id}\">")), "section {id}");
    }
    let figures = written["figures"].as_array().expect("figures");
    assert_eq!(html.matches("<figure id=").count(), figures.len());
    assert!(figures.len() >= 5, "{figures:?}");
    for figure in figures {
        let svg = std::fs::read_to_string(folder.path().join(figure.as_str().expect("a path"))).expect("a figure");
        assert!(svg.contains("<svg") && svg.contains("zipline"), "{figure}");
    }
    let markdown = std::fs::read_to_string(folder.path().join(written["markdown"].as_str().expect("a path"))).expect("Markdown");
    assert!(markdown.contains("interrupted"), "what was cut short says so");
    assert!(markdown.contains("Without s3-express: no server"), "what is missing says so");
    assert!(
        markdown.contains("s3-standard: 12 tries") && markdown.contains("(11 of them told to slow down)"),
        "tries are counted"
    );
}

#[test]
fn where_zipline_loses_is_found_by_the_numbers() {
    let folder = TempDir::new().expect("a folder");
    let raw = apps_file(folder.path(), "a.json", "x");
    let output = report(folder.path(), &["--from", raw.to_str().expect("text"), "--out", "r.html"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let markdown = std::fs::read_to_string(folder.path().join("r.md")).expect("Markdown");
    let losses =
        markdown.split("## Where Zipline loses").nth(1).expect("the section").split("\n## ").next().expect("its end").to_owned();
    assert!(losses.contains("| video, parallel, warm | inline | time 0.80"), "{losses}");
    assert!(!losses.contains("s3-standard | time"), "{losses}");
    let headline = markdown.split("## Applications").nth(1).expect("the section");
    assert!(headline.contains("2.80 [2.66, 2.94]"), "{headline}");
}

/// The value of a Markdown table's cell: the row that begins with these cells, the column of that name.
fn cell(markdown: &str, row: &str, column: &str) -> String {
    let lines: Vec<&str> = markdown.lines().collect();
    let at = lines.iter().position(|line| line.starts_with(row)).unwrap_or_else(|| panic!("no row {row}\n{markdown}"));
    let head = lines[..at].iter().rev().find(|line| line.contains(&format!("| {column} |"))).expect("a head");
    let place = head.split(" | ").position(|name| name.trim_matches(['|', ' ']) == column).expect("the column");
    lines[at].split(" | ").nth(place).expect("a cell").trim_matches(['|', ' ']).to_owned()
}

#[test]
fn of_two_runs_the_row_with_more_pairs_stands_and_says_so() {
    let folder = TempDir::new().expect("a folder");
    let first = apps_file(folder.path(), "first.json", "x");
    let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&first).expect("a file")).expect("JSON");
    let rows: Vec<Value> = vec![app_row("video", "zipline", 0.5, None), app_row("video", "redis", 0.51, Some(1.02))];
    file["rows"] = json!(rows);
    for row in file["rows"].as_array_mut().expect("rows") {
        row["seconds"]["samples"] = json!(120);
        if row["times_ours"].is_object() {
            row["times_ours"]["samples"] = json!(120);
        }
    }
    let second = write(folder.path(), "second.json", &file);
    let from = [&first, &second].map(|path| path.display().to_string());
    let output = report(folder.path(), &["--out", "r.html", "--from", &from[0], &from[1]]);
    assert!(output.status.success(), "{}", stderr(&output));
    let markdown = std::fs::read_to_string(folder.path().join("r.md")).expect("Markdown");
    let pairs = |app: &str, method: &str| cell(&markdown, &format!("| {app} | parallel | {method} |"), "pairs");
    assert_eq!([pairs("video", "redis"), pairs("video", "s3-standard")], ["120, run b", "2, run a"]);
    assert_eq!(pairs("stacking", "redis"), "2, run a");
    assert!(markdown.contains("first.json") && markdown.contains("second.json"), "both runs are named");
    let redis = "| applications against Redis: never slower |";
    assert_eq!(cell(&markdown, redis, "decided by"), "video, parallel: 1.02 [0.97, 1.07] 120");
}

#[test]
fn targets_stand_with_what_decides_them() {
    let folder = TempDir::new().expect("a folder");
    let apps = apps_file(folder.path(), "a.json", "x");
    let micro = micro_file(folder.path(), "m.json", "x");
    let from = [&apps, &micro].map(|path| path.display().to_string());
    let output = report(folder.path(), &["--out", "r.html", "--from", &from[0], &from[1]]);
    assert!(output.status.success(), "{}", stderr(&output));
    let markdown = std::fs::read_to_string(folder.path().join("r.md")).expect("Markdown");
    let s3 = "| video and stacking against S3 with published delays: faster | ≥ 3 × on one |";
    assert_eq!((cell(&markdown, s3, "met"), cell(&markdown, s3, "rows that meet it")), ("no".into(), "0 of 2".into()));
    let below = "| calls below the inline threshold against inline: not slower by more than 5 % |";
    assert_eq!(cell(&markdown, below, "decided by"), "plain-call of 1 KiB to 1 over inline: 0.97 [0.94, 1.00] 100");
    assert_eq!((cell(&markdown, below, "met"), cell(&markdown, below, "rows that meet it")), ("no".into(), "1 of 2".into()));
    let growth = "| held objects, instances, workflow width: exponent of cost |";
    assert_eq!(cell(&markdown, growth, "met"), "not measured");
}

#[test]
fn a_report_made_twice_is_the_same() {
    let folder = TempDir::new().expect("a folder");
    let raw = apps_file(folder.path(), "a.json", "x");
    let page = |name: &str| {
        assert!(report(folder.path(), &["--from", raw.to_str().expect("text"), "--out", name]).status.success());
        std::fs::read_to_string(folder.path().join(name)).expect("the page")
    };
    assert_eq!(page("one.html"), page("two.html"));
}

#[test]
fn files_that_do_not_go_together_are_refused_and_nothing_is_written() {
    let folder = TempDir::new().expect("a folder");
    let (here, there) = (apps_file(folder.path(), "a.json", "x"), micro_file(folder.path(), "m.json", "y"));
    let changed = |name: &str, member: &str| {
        let mut file: Value = serde_json::from_str(&std::fs::read_to_string(&here).expect("a file")).expect("JSON");
        file[member] = json!("another");
        write(folder.path(), name, &file)
    };
    let (size, network) = (changed("b.json", "size"), changed("c.json", "network"));
    let scale = write(
        folder.path(),
        "s.json",
        &json!({ "schema": 1, "kind": "scale", "mode": "quick", "seed": 1, "machine": machine("x"), "rows": [] }),
    );
    let old = write(folder.path(), "old.json", &json!({ "schema": 0, "kind": "apps", "rows": [] }));
    let none = write(folder.path(), "none.json", &json!({ "hello": 1 }));
    let text = |path: &PathBuf| path.to_str().expect("text").to_owned();
    let cases = [
        (vec![text(&here), text(&there)], "different machines"),
        (vec![text(&here), text(&size)], "inputs of different sizes"),
        (vec![text(&here), text(&network)], "over different networks"),
        (vec![text(&scale), text(&scale)], "two raw files of `bench scale`"),
        (vec![text(&old)], "has schema 0"),
        (vec![text(&none)], "has schema none"),
        (vec!["missing.json".to_owned()], "missing.json"),
    ];
    for (from, words) in cases {
        let mut arguments = vec!["--out", "r.html", "--from"];
        arguments.extend(from.iter().map(String::as_str));
        let output = report(folder.path(), &arguments);
        assert!(!output.status.success());
        assert!(stderr(&output).contains(words), "{words}: {}", stderr(&output));
        assert!(!folder.path().join("r.html").exists());
    }
    let output = report(folder.path(), &[]);
    assert!(stderr(&output).contains("zipline bench apps --quick"), "{}", stderr(&output));
}

/// On a file system of 64 KiB, which lives as long as the namespace of mounts that the script has.
#[test]
fn on_a_full_disk_there_is_no_half_report() {
    const NAME: &str = "on_a_full_disk_there_is_no_half_report";
    let folder = TempDir::new().expect("a folder");
    let raw = apps_file(folder.path(), "a.json", "x");
    let script = "mount -t tmpfs -o size=64k tmpfs \"$1\" || exit 99
        \"$0\" report --from \"$2\" --out \"$1/new/r.html\" && exit 98
        find \"$1\" -mindepth 1";
    let small = folder.path().join("small");
    std::fs::create_dir(&small).expect("a folder");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_zipline-bench")]).arg(&small).arg(&raw);
    let Ok(output) = command.output() else { return zipline_testkit::skip(NAME, "there is no unshare") };
    if output.status.code() == Some(99) || stderr(&output).contains("unshare:") {
        return zipline_testkit::skip(NAME, "mounting needs root");
    }
    assert!(output.status.success(), "{output:?}");
    let said = stderr(&output);
    assert!(said.contains("the report is not written") && said.contains("No space left") && said.contains("hint: "), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "something was left");
}

/// The browser, where one is installed.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).flat_map(|folder| ["chromium", "chromium-browser"].map(|name| folder.join(name)));
    places.into_iter().find(|place| place.is_file())
}

#[test]
fn a_browser_shows_the_page_whole_and_complains_of_nothing() {
    let Some(browser) = chromium() else {
        zipline_testkit::skip("a_browser_shows_the_page_whole_and_complains_of_nothing", "no chromium is installed");
        return;
    };
    let folder = TempDir::new().expect("a folder");
    let apps = apps_file(folder.path(), "apps.json", "CPU");
    let micro = micro_file(folder.path(), "micro.json", "CPU");
    let page = folder.path().join("page.html");
    let output = report(
        folder.path(),
        &["--from", &apps.display().to_string(), &micro.display().to_string(), "--out", &page.display().to_string()],
    );
    assert!(output.status.success(), "{output:?}");
    let written = std::fs::read_to_string(&page).expect("the page");
    let profile = folder.path().join("profile");
    let shown = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr"])
        .args(["--window-size=400,4000", "--virtual-time-budget=2000", "--dump-dom"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .arg(format!("file://{}", page.display()))
        .output()
        .expect("the browser starts");
    let (dom, log) = (String::from_utf8_lossy(&shown.stdout), String::from_utf8_lossy(&shown.stderr));
    assert!(shown.status.success(), "{log}");
    assert!(!log.contains("CONSOLE"), "{log}");
    for text in [&*dom, &*written] {
        assert!(!text.contains("src=") && !text.contains("href=\"http"), "something leaves the page");
    }
    let figures = |text: &str| text.matches("<svg").count();
    assert!(figures(&written) >= 3, "{} figures", figures(&written));
    assert_eq!(figures(&dom), figures(&written), "every figure is shown");
}
