//! What an instance reports of itself, and whether it still does: its reports are
//! its heartbeats, judged by their rhythm.

use crate::Outcome;
use clap::Args;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use synod_client::Client;
use synod_coord::{PhiDetector, PhiOptions, Report, report_key};
use tokio::sync::mpsc;

/// Between two looks whether it has fallen silent.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Pause before the reports are followed anew.
const AFTER_FAILURE: Duration = Duration::from_millis(200);

/// How the rhythm of reports is judged.
#[derive(Args, Clone)]
pub(crate) struct PhiFlags {
    /// How sure one must be that an instance's reports (--check ttl:) have stopped, before
    /// their time to live is over: at 3, wrong once in 1,000 late reports; 0: wait for that
    #[arg(long, default_value_t = 8.0, value_name = "PHI", value_parser = parse_phi)]
    phi: f64,
    /// A silence that is longer than usual by so much is no sign yet
    #[arg(long, default_value_t = 200, value_name = "MS")]
    phi_pause: u64,
}

fn parse_phi(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(phi) if phi >= 0.0 => Ok(phi),
        _ => Err("a number that is not negative".into()),
    }
}

impl PhiFlags {
    fn options(&self) -> PhiOptions {
        PhiOptions {
            threshold: if self.phi > 0.0 { self.phi } else { f64::INFINITY },
            acceptable_pause_ms: self.phi_pause as f64,
            ..PhiOptions::default()
        }
    }
}

struct Heard {
    begun: Instant,
    last: Option<(u64, Report)>,
    /// Since when it is silent, in words, if it is.
    silent: Option<String>,
    rhythm: PhiDetector,
}

/// An instance's reports.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Mutex<Heard>>);

impl Reports {
    /// Follows the reports of an instance from now on; older ones say nothing.
    pub fn follow(client: &Client, service: &str, instance: &str, phi: &PhiFlags) -> Reports {
        let rhythm = PhiDetector::new(phi.options());
        let heard = Heard { begun: Instant::now(), last: None, silent: None, rhythm };
        let reports = Reports(Arc::new(Mutex::new(heard)));
        let mut written = client.follow(&report_key(service, instance));
        let all = reports.clone();
        tokio::spawn(async move {
            loop {
                match written.next().await {
                    Ok(value) => all.take(Report::decode(&value)),
                    Err(_) => tokio::time::sleep(AFTER_FAILURE).await,
                }
            }
        });
        reports
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn take(&self, report: Option<Report>) {
        let Some(report) = report else { return };
        let mut heard = self.heard();
        let now = heard.begun.elapsed().as_millis() as u64;
        heard.rhythm.heard(now);
        heard.last = Some((now, report));
        heard.silent = None;
    }

    /// That the instance has fallen silent, each time that it does; never without a time
    /// to live. It is looked at often, and what is heard needs no further looks: the
    /// detector has weighed how sure it is.
    pub fn silences(&self, ttl: Option<Duration>) -> mpsc::Receiver<String> {
        let (tx, rx) = mpsc::channel(1);
        let all = self.clone();
        tokio::spawn(async move {
            let Some(ttl) = ttl else { return tx.closed().await };
            let mut told = false;
            while !tx.is_closed() {
                tokio::time::sleep(LOOK_EVERY).await;
                let silent = all.heard().silence(ttl);
                let before = std::mem::replace(&mut told, silent.is_some());
                if let Some(why) = silent.filter(|_| !before)
                    && tx.send(why).await.is_err()
                {
                    return;
                }
            }
        });
        rx
    }

    /// Whether the instance is well, by its last report and by when that came.
    pub fn judge(&self, ttl: Duration) -> Outcome {
        let mut heard = self.heard();
        let Some((_, report)) = &heard.last else {
            return Err("it has not reported yet".into());
        };
        if !report.healthy {
            return Err(match report.why.is_empty() {
                true => "it reports that it is unhealthy".into(),
                false => format!("it reports: {}", report.why),
            });
        }
        heard.silence(ttl).map_or(Ok(()), Err)
    }
}

impl Heard {
    /// Why it is taken to be silent, if it is: in the words of when that was found.
    fn silence(&mut self, ttl: Duration) -> Option<String> {
        let now = self.begun.elapsed().as_millis() as u64;
        let silence = now.saturating_sub(self.last.as_ref()?.0);
        if self.silent.is_none() {
            if u128::from(silence) > ttl.as_millis() {
                self.silent = Some(format!("no report for {silence} ms"));
            } else if self.rhythm.is_suspect(now) {
                let phi = self.rhythm.phi(now);
                self.silent =
                    Some(format!("its reports have stopped for {silence} ms (phi {phi:.1})"));
            }
        }
        self.silent.clone()
    }
}
