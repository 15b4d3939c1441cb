//! Laws 1 and 3 to 6: streams that are decoded.

use super::cuts::{chunks, few_segmentations, offsets, reads, segmentations, variant};
use super::drive::{Broken, Event, Mark, Run, drive};
use super::fault::After;
use super::law::Law;
use super::random::Random;
use super::shrink::shrink;
use super::violation::{Replay, Test, Violation};
use super::{Laws, Report, Subject};

/// A flood repeats one byte for this many times the limit, to find a decoder without a limit.
const FLOOD: usize = 3;
/// Larger limits are not tested with floods.
const LARGEST_FLOOD: usize = 64 * 1024;
/// The bytes of which floods are made: first bytes of lengths, digits, letters and others.
const FLOODS: &[u8] = b"\0\x01 1a\x7f\x80\xff";
/// How many fillers law 5 tries at most.
const MOST_FILLERS: usize = 16;

/// How a stream is tested.
#[derive(Clone, Copy)]
enum Probe<'a> {
    /// It arrives in the given reads.
    Reads,
    /// It ends at the first cut.
    Truncated,
    /// It arrives in the given reads, and the bytes already seen are overwritten with these.
    Overwritten(&'a [u8]),
    /// After each recoverable error these bytes are sent twice, and their frame has to be
    /// delivered.
    Followed(&'a [u8]),
}

impl<C: Subject> Laws<C> {
    pub(super) fn check_all(&self) -> Result<Report, Violation> {
        let mut report = Report { seed: self.seed, streams: 0, runs: 0, overwritten: 0 };
        let mut random = Random::new(self.seed);
        let mut streams = self.streams.clone();
        for frames in &self.sequences {
            self.check_frames(frames)?;
            streams.push(self.encoded(frames));
        }
        let fillers = self.fillers(&streams);
        for stream in &streams {
            self.check_stream(
                stream,
                &segmentations(stream.len(), self.splits, &mut random),
                &mut random,
                &mut report,
            )?;
            self.check_overwritten(stream, &fillers, &mut report)?;
            self.check_followed(stream, &mut report)?;
            self.check_floods(stream, &mut random, &mut report)?;
        }
        if !streams.is_empty() {
            for _ in 0..self.variants {
                let from: &Vec<u8> = random.pick(&streams);
                let stream = variant(from, &streams, &mut random);
                let cuts = few_segmentations(stream.len(), &mut random);
                self.check_stream(&stream, &cuts, &mut random, &mut report)?;
            }
        }
        Ok(report)
    }

    /// Laws 3, 1 and 6, and the laws that each run checks by itself.
    fn check_stream(
        &self,
        stream: &[u8],
        segmentations: &[Vec<usize>],
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Violation> {
        report.streams += 1;
        report.runs += 1;
        let whole = self.require(Probe::Reads, stream, &[], || self.whole(stream))?;
        for end in offsets(stream.len(), random) {
            report.runs += 1;
            self.require(Probe::Truncated, stream, &[end], || self.truncated(&whole, stream, end))?;
        }
        for cuts in segmentations {
            report.runs += 1;
            self.require(Probe::Reads, stream, cuts, || self.same(&whole, stream, cuts))?;
        }
        Ok(())
    }

    /// Law 5.
    fn check_overwritten(
        &self,
        stream: &[u8],
        fillers: &[Vec<u8>],
        report: &mut Report,
    ) -> Result<(), Violation> {
        for size in [1, 5, self.window, self.window * 3] {
            let cuts = chunks(stream.len(), size);
            for filler in fillers {
                report.runs += 1;
                let probe = Probe::Overwritten(filler);
                report.overwritten +=
                    self.require(probe, stream, &cuts, || self.overwritten(stream, &cuts, filler))?;
            }
        }
        Ok(())
    }

    /// The part of law 6 that frames continue after a recoverable error.
    fn check_followed(&self, stream: &[u8], report: &mut Report) -> Result<(), Violation> {
        let Some(frame) = self.sequences.iter().find_map(|frames| frames.get(..1)) else {
            return Ok(());
        };
        let next = self.encoded(frame);
        report.runs += 1;
        self.require(Probe::Followed(&next), stream, &[], || self.followed(stream, &next))
    }

    /// Law 4, with floods.
    fn check_floods(
        &self,
        stream: &[u8],
        random: &mut Random,
        report: &mut Report,
    ) -> Result<(), Violation> {
        let Some(limit) = self.limit.filter(|&limit| limit <= LARGEST_FLOOD) else {
            return Ok(());
        };
        for byte in FLOODS {
            let mut flooded = stream[..random.below(stream.len() + 1)].to_vec();
            flooded.resize(flooded.len() + FLOOD * (limit + 1), *byte);
            let cuts = chunks(flooded.len(), limit / 3 + 1);
            report.runs += 1;
            self.require(Probe::Reads, &flooded, &cuts, || self.alone_in(&flooded, &cuts))?;
        }
        Ok(())
    }

    /// The ends of the frames in these streams, short and long, because decoders search for those.
    fn fillers(&self, streams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut fillers = [&b"\n"[..], b"\r\n", b"\0"].map(<[u8]>::to_vec).to_vec();
        for stream in streams {
            let Ok(run) = drive(self, (self.make)(), &[stream], None) else { continue };
            for mark in &run.marks {
                for size in [1, 2, 3, 8] {
                    let filler = stream[..mark.taken.min(stream.len())]
                        .iter()
                        .rev()
                        .take(size)
                        .rev()
                        .copied();
                    let filler: Vec<u8> = filler.collect();
                    if filler.len() == size
                        && fillers.len() < MOST_FILLERS
                        && !fillers.contains(&filler)
                    {
                        fillers.push(filler);
                    }
                }
            }
        }
        fillers
    }

    /// The result of a check, or its failure on the shortest stream that breaks the same law.
    fn require<T>(
        &self,
        probe: Probe<'_>,
        stream: &[u8],
        cuts: &[usize],
        check: impl FnOnce() -> Result<T, Violation>,
    ) -> Result<T, Violation> {
        let violation = match check() {
            Ok(value) => return Ok(value),
            Err(violation) => violation,
        };
        let law = violation.law;
        Err(shrink(stream, cuts, violation, |stream, cuts| {
            self.probe(probe, stream, cuts).err().filter(|other| other.law == law)
        }))
    }

    fn probe(&self, probe: Probe<'_>, stream: &[u8], cuts: &[usize]) -> Result<(), Violation> {
        match probe {
            Probe::Reads => self.whole(stream).and_then(|whole| self.same(&whole, stream, cuts)),
            Probe::Truncated => match cuts {
                [] => self.whole(stream).map(drop),
                cuts => {
                    self.whole(stream).and_then(|whole| self.truncated(&whole, stream, cuts[0]))
                }
            },
            Probe::Overwritten(filler) => self.overwritten(stream, cuts, filler).map(drop),
            Probe::Followed(next) => self.followed(stream, next),
        }
    }

    fn whole(&self, stream: &[u8]) -> Result<Run<C::Item>, Violation> {
        drive(self, (self.make)(), &[stream], None)
            .map_err(|broken| self.alone(stream, &[], broken))
    }

    fn alone_in(&self, stream: &[u8], cuts: &[usize]) -> Result<Run<C::Item>, Violation> {
        drive(self, (self.make)(), &reads(stream, cuts), None)
            .map_err(|broken| self.alone(stream, cuts, broken))
    }

    /// Checks that the stream gives the same in these reads as in one.
    fn same(&self, whole: &Run<C::Item>, stream: &[u8], cuts: &[usize]) -> Result<(), Violation> {
        let run = self.alone_in(stream, cuts)?;
        let Some(at) = first_difference(&whole.events, &run.events) else {
            return Ok(());
        };
        let law = law_of(&whole.events, &run.events, at);
        Err(self.differs(
            &whole.events,
            &run.events,
            self.violation(law, stream, cuts, Replay::Gives),
        ))
    }

    /// Checks that the stream ended at `end` gives, before its end, only events of the whole
    /// stream.
    fn truncated(&self, whole: &Run<C::Item>, stream: &[u8], end: usize) -> Result<(), Violation> {
        let run = drive(self, (self.make)(), &[&stream[..end]], None)
            .map_err(|broken| self.alone(&stream[..end], &[], broken))?;
        // The last of joined frames may be a part of one.
        let before_end =
            if self.merge.is_some() { run.before_end.saturating_sub(1) } else { run.before_end };
        let part = &run.events[..before_end];
        match first_difference(&whole.events, part) {
            Some(at) if at < part.len() => {
                let law = match &part[at] {
                    Event::Frame(_) => Law::PrefixSafety,
                    Event::Error(_) => law_of(&whole.events, part, at),
                };
                // The decoder does not know where the stream will end, so the same happens with two
                // reads.
                let got = drive(self, (self.make)(), &reads(stream, &[end]), None);
                let got = got.map_or_else(|_| run.events, |run| run.events);
                Err(self.differs(
                    &whole.events,
                    &got,
                    self.violation(law, stream, &[end], Replay::Gives),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Checks that frames end at the same offsets when the bytes already seen are overwritten.
    /// Returns how many bytes were overwritten.
    pub(super) fn overwritten(
        &self,
        stream: &[u8],
        cuts: &[usize],
        filler: &[u8],
    ) -> Result<usize, Violation> {
        let plain = self.alone_in(stream, cuts)?;
        let run = drive(self, (self.make)(), &reads(stream, cuts), Some(filler));
        let violation =
            self.violation(Law::LinearWork, stream, cuts, Replay::Overwritten(filler.to_vec()));
        let run = match run {
            Ok(run) => run,
            // Other content may make an error of the last frame, for example.
            Err(Broken { law: Law::PrefixSafety | Law::PlacedErrors, .. }) => return Ok(0),
            Err(broken) => {
                let shown = self.alone(stream, cuts, broken);
                return Err(Violation {
                    law: shown.law,
                    expected: shown.expected,
                    got: shown.got,
                    ..violation
                });
            }
        };
        let shown = |marks: &[Mark]| {
            let line = |mark: &Mark| {
                let what = if mark.after.is_some() { "an error" } else { "a frame" };
                format!("{what} that ends at byte {}, after {} had come", mark.taken, mark.given)
            };
            marks.iter().map(line).collect::<Vec<_>>()
        };
        if same_boundaries(&plain.marks, &run.marks) {
            return Ok(run.overwritten);
        }
        Err(Violation { expected: shown(&plain.marks), got: shown(&run.marks), ..violation })
    }

    /// Checks that the frame `next` is delivered after each recoverable error if it is sent twice:
    /// the first may be lost with the rest of the bad frame.
    fn followed(&self, stream: &[u8], next: &[u8]) -> Result<(), Violation> {
        let run = self.alone_in(stream, &chunks(stream.len(), 1))?;
        let expected = self.whole(next)?.events;
        for mark in run
            .marks
            .iter()
            .filter(|mark| mark.after == Some(After::Frames) && mark.given < stream.len())
        {
            let followed = [&stream[..mark.given], next, next].concat();
            let cuts = chunks(followed.len(), 1);
            let events = self.alone_in(&followed, &cuts)?.events;
            if !events.ends_with(&expected) {
                let violation = self.violation(Law::PlacedErrors, &followed, &[], Replay::EndsWith);
                return Err(self.differs(&expected, &events, violation));
            }
        }
        Ok(())
    }

    fn differs(
        &self,
        expected: &[Event<C::Item>],
        got: &[Event<C::Item>],
        violation: Violation,
    ) -> Violation {
        let shown = |events: &[Event<C::Item>]| events.iter().map(Event::show).collect();
        Violation { expected: shown(expected), got: shown(got), ..violation }
    }

    /// The violation that one run found by itself.
    pub(super) fn alone(&self, stream: &[u8], cuts: &[usize], broken: Broken) -> Violation {
        Violation {
            expected: vec![broken.expected],
            got: vec![broken.got],
            ..self.violation(broken.law, stream, cuts, Replay::Alone)
        }
    }

    pub(super) fn violation(
        &self,
        law: Law,
        stream: &[u8],
        cuts: &[usize],
        replay: Replay,
    ) -> Violation {
        Violation {
            law,
            stream: stream.to_vec(),
            segmentation: reads(stream, cuts).into_iter().map(<[u8]>::to_vec).collect(),
            expected: Vec::new(),
            got: Vec::new(),
            seed: self.seed,
            test: Box::new(Test {
                expression: self.expression.clone(),
                type_name: std::any::type_name::<C>(),
                replay,
            }),
        }
    }
}

/// The index of the first event in which the two differ.
fn first_difference<T: PartialEq>(some: &[Event<T>], others: &[Event<T>]) -> Option<usize> {
    let same = some.iter().zip(others).take_while(|(one, other)| one == other).count();
    (same < some.len().max(others.len())).then_some(same)
}

/// The law that a difference at this event breaks.
fn law_of<T>(whole: &[Event<T>], other: &[Event<T>], at: usize) -> Law {
    match (whole.get(at), other.get(at)) {
        (Some(Event::Error(_)), Some(Event::Error(_))) => Law::PlacedErrors,
        _ => Law::AnySegmentation,
    }
}

/// Whether frames ended at the same offsets. It compares only as far as content can't matter: a
/// frame that was found may be valid or not depending on its content.
fn same_boundaries(plain: &[Mark], other: &[Mark]) -> bool {
    for (one, two) in plain.iter().zip(other) {
        if one.after != two.after && one.given == two.given && one.taken != two.taken {
            return true;
        }
        if (one.given, one.taken) != (two.given, two.taken) {
            return false;
        }
        if [one.after, two.after]
            .iter()
            .any(|after| matches!(after, Some(After::Nothing | After::Unknown)))
        {
            return true;
        }
    }
    plain.len() == other.len()
}

#[cfg(test)]
mod tests;
