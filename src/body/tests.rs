use std::collections::VecDeque;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::*;

/// What a client does next.
#[derive(Clone)]
enum Step {
    Data(Bytes),
    Pause(Duration),
    Trailers,
    Break,
}

/// A body that does as told.
struct Script {
    steps: VecDeque<Step>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Script {
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        Self {
            steps: steps.into_iter().collect(),
            pause: None,
        }
    }

    fn of(sizes: impl IntoIterator<Item = usize>) -> Self {
        Self::new(sizes.into_iter().map(data))
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = &'static str;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        loop {
            if let Some(pause) = &mut self.pause {
                std::task::ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            return Poll::Ready(match self.steps.pop_front() {
                Some(Step::Pause(time)) => {
                    self.pause = Some(Box::pin(tokio::time::sleep(time)));
                    continue;
                }
                Some(Step::Data(bytes)) => Some(Ok(Frame::data(bytes))),
                Some(Step::Trailers) => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("authorization", HeaderValue::from_static("Bearer x"));
                    Some(Ok(Frame::trailers(trailers)))
                }
                Some(Step::Break) => Some(Err("reset")),
                None => None,
            });
        }
    }
}

fn data(size: usize) -> Step {
    Step::Data(Bytes::from(vec![b'x'; size]))
}

const SECOND: Duration = Duration::from_secs(1);

fn settings() -> BodySettings {
    BodySettings {
        max_body: 1 << 20,
        max_lookup_body: 1 << 14,
        body_memory: 1 << 22,
        budget_wait: SECOND,
        body_timeout: 60 * SECOND,
        idle: 5 * SECOND,
        min_rate: 1024,
    }
}

async fn read_script(
    script: Script,
    declared: Option<u64>,
    limit: u64,
) -> Result<RawBody, BodyError> {
    let budget = ByteBudget::new(settings().body_memory);
    read(
        script,
        Size { declared, limit },
        &budget,
        &settings(),
        |_| {},
    )
    .await
}

#[tokio::test(start_paused = true)]
async fn the_limit_passes_and_one_more_does_not() {
    for declared in [Some(100), None] {
        let read = read_script(Script::of([60, 40]), declared, 100).await;
        assert_eq!(read.unwrap().len(), 100);
    }
    for (script, declared) in [(Script::of([]), Some(101)), (Script::of([60, 41]), None)] {
        let refused = read_script(script, declared, 100).await.err();
        assert_eq!(refused, Some(BodyError::TooLarge { limit: 100 }));
    }
}

#[tokio::test(start_paused = true)]
async fn too_large_by_length_is_known_before_a_byte_or_the_budget() {
    let budget = ByteBudget::new(10);
    let _all = budget.charge(10, SECOND).await.unwrap();
    // A body that would panic if it were polled.
    let body = http_body_util::BodyExt::map_frame(Script::of([1]), |_| panic!("polled"));
    let refused = read(
        body,
        Size {
            declared: Some(101),
            limit: 100,
        },
        &budget,
        &settings(),
        |_| {},
    )
    .now_or_never();
    assert!(matches!(
        refused,
        Some(Err(BodyError::TooLarge { limit: 100 }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_length_is_charged_before_a_byte_is_read() {
    let budget = ByteBudget::new(1000);
    let held = budget.charge(901, SECOND).await.unwrap();
    let body = http_body_util::BodyExt::map_frame(Script::of([1]), |_| panic!("polled"));
    let refused = read(
        body,
        Size {
            declared: Some(100),
            limit: 100,
        },
        &budget,
        &settings(),
        |_| {},
    )
    .await;
    assert_eq!(
        refused.err(),
        Some(BodyError::Overloaded {
            retry_after: SECOND
        })
    );
    drop(held);
    let kept = read(
        Script::of([100]),
        Size {
            declared: Some(100),
            limit: 100,
        },
        &budget,
        &settings(),
        |_| {},
    )
    .await
    .unwrap();
    let (frames, permit) = kept.into_parts();
    assert_eq!((frames.len(), budget.in_use()), (1, 100));
    drop(permit);
    assert_eq!(budget.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_without_a_length_is_charged_as_it_comes_and_released_on_refusal() {
    let budget = ByteBudget::new(1000);
    let refused = read(
        Script::of([600, 600]),
        Size {
            declared: None,
            limit: 5000,
        },
        &budget,
        &settings(),
        |_| {},
    )
    .await;
    assert!(matches!(refused, Err(BodyError::Overloaded { .. })));
    assert_eq!(budget.in_use(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stands_still_times_out_after_idle() {
    let before = clock::instant();
    let script = Script::new([data(1), Step::Pause(100 * SECOND), data(1)]);
    let refused = read_script(script, Some(2), 10).await.err();
    assert_eq!(refused, Some(BodyError::Timeout));
    assert_eq!((clock::instant() - before).as_secs(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_never_ends_times_out_in_all() {
    let before = clock::instant();
    let drip = (0..1000).flat_map(|_| [data(4096), Step::Pause(SECOND)]);
    let refused = read_script(Script::new(drip), None, 1 << 30).await.err();
    assert_eq!(refused, Some(BodyError::Timeout));
    assert_eq!((clock::instant() - before).as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn a_body_below_the_rate_is_refused_after_ten_seconds_also_after_a_burst() {
    let drip = || (0..1000).flat_map(|_| [Step::Pause(SECOND), data(1)]);
    let before = clock::instant();
    let refused = read_script(Script::new(drip()), None, 1 << 20).await.err();
    assert_eq!(refused, Some(BodyError::TooSlow));
    assert_eq!((clock::instant() - before).as_secs(), 10);

    let before = clock::instant();
    let burst = [data(500_000)].into_iter().chain(drip());
    let refused = read_script(Script::new(burst), None, 1 << 20).await.err();
    assert_eq!(refused, Some(BodyError::TooSlow));
    assert_eq!((clock::instant() - before).as_secs(), 20);

    let fast = (0..30).flat_map(|_| [Step::Pause(SECOND), data(1025)]);
    assert!(read_script(Script::new(fast), None, 1 << 20).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_broken_or_short_body_is_broken() {
    let broken = Script::new([data(1), Step::Break]);
    for (script, declared) in [(broken, None), (Script::of([1]), Some(2))] {
        let refused = read_script(script, declared, 10).await.err();
        assert_eq!(refused, Some(BodyError::Broken));
    }
}

#[tokio::test(start_paused = true)]
async fn trailers_end_a_body_and_nothing_of_them_is_kept() {
    let script = Script::new([data(3), Step::Trailers]);
    let body = read_script(script, None, 10).await.unwrap();
    assert_eq!(body.frames().concat(), b"xxx");
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_is_no_error_here() {
    let body = read_script(Script::of([]), Some(0), 10).await.unwrap();
    assert!(body.is_empty() && body.frames().is_empty());
}

#[test]
fn bytes_that_are_there_need_no_timer() {
    // Outside any runtime a timer would panic.
    let body = read_script(Script::of([70_000, 1, 5]), Some(70_006), 100_000);
    assert_eq!(body.now_or_never().unwrap().unwrap().len(), 70_006);
}

#[test]
fn a_frame_that_fills_a_read_buffer_is_not_copied() {
    let large = Bytes::from(vec![b'x'; READ_BUFFER]);
    let mut gather = Gather::new(Some(3 + 2 * 65_536));
    for frame in [&large, &Bytes::from_static(b"abc"), &large] {
        gather.push(frame.clone());
    }
    let frames = gather.finish();
    let lengths: Vec<_> = frames.iter().map(Bytes::len).collect();
    assert_eq!(lengths, [READ_BUFFER, 3, READ_BUFFER]);
    assert!([0, 2].iter().all(|i| frames[*i].as_ptr() == large.as_ptr()));
}

proptest! {
    #[test]
    fn gathering_keeps_every_byte_in_order(
        sizes in prop::collection::vec(prop_oneof![0_usize..40, 1000_usize..20_000, 61_000_usize..66_000], 0..20),
        declared: bool,
    ) {
        let all: Vec<u8> = (0..=250).cycle().take(sizes.iter().sum()).collect();
        let length = u64::try_from(all.len()).unwrap();
        let mut gather = Gather::new(declared.then_some(length));
        let mut rest = &all[..];
        for size in sizes {
            let (now, later) = rest.split_at(size);
            gather.push(Bytes::copy_from_slice(now));
            rest = later;
        }
        prop_assert_eq!(gather.len(), length);
        prop_assert_eq!(gather.finish().concat(), all);
    }
}
