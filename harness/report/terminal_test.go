package report

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
)

func TestProgressWritesPlainLinesWhereThereIsNoTerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	now := started
	p.now = func() time.Time { return now }
	p.Update(Status{Phase: "baseline", Elapsed: time.Second, Total: time.Minute, OK: 1200})
	p.Update(Status{Phase: "baseline", Elapsed: 2 * time.Second}) // nothing but counts changed
	now = now.Add(plainInterval)
	p.Update(Status{Phase: "baseline", Elapsed: 12 * time.Second, Indeterminate: 2})
	p.Update(Status{Phase: "fault", Elapsed: 65 * time.Second, Faults: []string{"kill n1"}})
	p.Update(Status{Phase: "fault", Elapsed: 66 * time.Second})
	p.Note("node %s\x1b[2J restarted", "n1")
	p.Close()
	require.Equal(t, []string{
		"baseline  1s/1m00s  1,200 ok, 0 failed, 0 indeterminate",
		"baseline  12s  0 ok, 0 failed, 2 indeterminate",
		"fault     1m05s  0 ok, 0 failed, 0 indeterminate  fault: kill n1",
		"fault     1m06s  0 ok, 0 failed, 0 indeterminate",
		"node n1\uFFFD[2J restarted",
	}, strings.Split(strings.TrimSpace(b.String()), "\n"))
}

func TestProgressDrawsOneLineOnATerminal(t *testing.T) {
	var b bytes.Buffer
	p := NewProgress(&b)
	now := started
	p.now, p.live, p.width = func() time.Time { return now }, true, func() int { return 30 }
	p.Update(Status{Phase: "baseline"})
	first := b.Len()
	p.Update(Status{Phase: "baseline", OK: 1})
	require.Equal(t, first, b.Len(), "too soon")
	now = now.Add(liveInterval)
	p.Update(Status{Phase: "baseline", OK: 2})
	require.NotContains(t, b.String(), "\n")
	for _, line := range strings.Split(b.String(), "\r\x1b[2K")[1:] {
		require.LessOrEqual(t, len([]rune(line)), 29)
	}
	b.Reset()
	p.Note("kept")
	require.True(t, strings.HasPrefix(b.String(), "\r\x1b[2Kkept\n"))
	require.Contains(t, b.String(), "baseline")
	b.Reset()
	p.Close()
	require.Equal(t, "\r\x1b[2K", b.String())
	p.Close()
	require.Equal(t, "\r\x1b[2K", b.String())
}

func TestNilProgressIsSilent(t *testing.T) {
	var p *Progress
	require.NotPanics(t, func() {
		p.Update(Status{Phase: "fault"})
		p.Note("x")
		p.Close()
	})
}

func TestPrintVerdict(t *testing.T) {
	run, res, h := sample(5*ms, 3)
	var b bytes.Buffer
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	require.Equal(t, `INVALID  LOST 3 of 5,726 acknowledged messages
  lost 1:1922 log-1 offset 640 at 12.009 s on n2, missing on n1 n2 n3, under partition:isolate-leader: n2 truncated log-1 from 4242 (epoch 2)
  lost 1:1927 log-1 offset 641 at 12.036 s on n2, missing on n1 n2 n3, under partition:isolate-leader: n2 truncated log-1 from 4242 (epoch 2)
  lost 4:1929 log-1 offset 642 at 12.052 s on n2, missing on n1 n2 n3, under partition:isolate-leader: n2 truncated log-1 from 4242 (epoch 2)
  report  results/reference-isr-log-partition/20260301T120000Z-7/index.html
  replay  faultline replay results/reference-isr-log-partition/20260301T120000Z-7
`, b.String())

	b.Reset()
	res.Verdict, res.Sentence, res.Checks = checker.Unknown, "Could not decide: the drain of log-2 was not proven complete", nil
	res.WhyInconclusive = []checker.Reason{{Why: "n3 did not reach the sentinel of log-2", Change: "give it more time: --time 90s"}}
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	lines := strings.Split(b.String(), "\n")
	require.Equal(t, "UNKNOWN  Could not decide: the drain of log-2 was not proven complete", lines[0])
	require.Equal(t, "  why     n3 did not reach the sentinel of log-2", lines[1])
	require.Equal(t, "  change  give it more time: --time 90s", lines[2])

	for range 4 {
		res.WhyInconclusive = append(res.WhyInconclusive, checker.Reason{Why: "another", Change: "give it more time: --time 90s"})
	}
	b.Reset()
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	require.Equal(t, "  why     n3 did not reach the sentinel of log-2; another; another; and 2 more reasons", strings.Split(b.String(), "\n")[1])
	require.Equal(t, 1, strings.Count(b.String(), "  change  "))
	res.Verdict = checker.Invalid
	b.Reset()
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	require.NotContains(t, b.String(), "change", "a violation does not hang on what else was not decided")

	b.Reset()
	run, res, h = sample(5*ms, 30)
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	require.Contains(t, b.String(), "  and 10 more in the report\n")
}

func TestFormats(t *testing.T) {
	require.Equal(t, "0", count(0))
	require.Equal(t, "999", count(999))
	require.Equal(t, "1,000", count(1000))
	require.Equal(t, "-41,207", count(-41207))
	require.Equal(t, "3 anomalies", plural(3, "anomaly"))
	require.Equal(t, "1 anomaly", plural(1, "anomaly"))
	require.Equal(t, "0.50 ms", millis(0.5))
	require.Equal(t, "123 ms", millis(123.4))
	require.Equal(t, "2.00 s", millis(2000))
	require.Equal(t, "never", millis(-1))
	require.Equal(t, "results/a-b", ShellQuote("results/a-b"))
	require.Equal(t, `'a b'\''c'`, ShellQuote("a b'c"))
	require.Equal(t, "''", ShellQuote(""))
	require.Equal(t, "0.25 s", tickLabel(250*ms, 50*ms))
	require.Equal(t, 5*sec, tickStep(40*sec, 10))
}

// Every rendering of a run with queues has their figures, and one without has none.
func TestQueueFigures(t *testing.T) {
	run, res, h := sample(50*ms, 0)
	render := func() (terminal, markdown, page string) {
		var term, text bytes.Buffer
		sum := Summarize(run, res, h)
		require.NoError(t, PrintVerdict(&term, sum))
		require.NoError(t, sum.WriteMarkdown(&text))
		_, page, _ = writeSample(t, run, res, h)
		return term.String(), text.String(), page
	}
	for _, text := range func() []string { a, b, c := render(); return []string{a, b, c} }() {
		require.NotContains(t, text, "consumed")
		require.NotContains(t, text, "consumers served")
	}
	res.Counts.Queues = map[string]checker.QueueCounts{
		"q0": {Attempts: 2000, Acknowledged: 1900, Delivered: 1890, Accepted: 1500, Drained: 400, Lost: 12, Duplicated: 7, Unexpected: 3, Recovered: 2},
		"q1": {Attempts: 30, Acknowledged: 20, Delivered: 20, Accepted: 5, Drained: 15},
	}
	for i := range res.Availability.Faults {
		res.Availability.Faults[i].ServedMS = map[string]float64{"q0": 1500, "q1": 20}
	}
	terminal, markdown, page := render()
	require.Contains(t, terminal, "2 queues: 1,920 acknowledged, 1,505 consumed, 415 in the drain, 12 never came out; further deliveries: 7\n")
	require.Contains(t, markdown, "| q0 | 2,000 | 1,900 | 1,890 | 1,500 | 400 | 7 | 12 |\n| q1 | 30 | 20 | 20 | 5 | 15 | 0 | 0 |\n")
	require.Contains(t, page, "Messages by queue.")
	require.Contains(t, page, `<span class="bad">12</span>`)
	require.Contains(t, page, `<th scope="row">all</th><td class="n">2,030</td><td class="n">1,920</td>`)
	if len(res.Availability.Faults) > 0 {
		require.Contains(t, page, "consumers served after healing")
		require.Contains(t, page, "1.50 s")
	}
}
