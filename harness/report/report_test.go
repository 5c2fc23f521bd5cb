package report

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
)

// document is what a page consists of, as far as tests ask.
type document struct {
	ids   map[string]int
	hrefs []string
	text  string
	order []string // ids in the order of the page
}

var scripts = regexp.MustCompile(`(?s)<(script|style)[^>]*>.*?</(script|style)>`)

// parse reads a page as strict XML: every element must be closed, every
// attribute quoted and everything hostile escaped. It also refuses whatever the
// page's own policy forbids.
func parse(t *testing.T, page string) document {
	t.Helper()
	doc := document{ids: map[string]int{}}
	var text strings.Builder
	d := xml.NewDecoder(strings.NewReader(scripts.ReplaceAllString(page, "")))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		switch e := tok.(type) {
		case xml.StartElement:
			require.NotContains(t, []string{"img", "iframe", "object", "embed", "link", "form", "base"}, e.Name.Local)
			for _, a := range e.Attr {
				switch n := a.Name.Local; {
				case n == "id":
					doc.ids[a.Value]++
					doc.order = append(doc.order, a.Value)
				case n == "href":
					doc.hrefs = append(doc.hrefs, a.Value)
				case n == "style" || n == "src" || strings.HasPrefix(n, "on"):
					require.Failf(t, "forbidden attribute", "%s %s=%q", e.Name.Local, n, a.Value)
				}
			}
		case xml.CharData:
			text.Write(e)
		}
	}
	doc.text = text.String()
	for id, n := range doc.ids {
		require.Equal(t, 1, n, "id %s", id)
	}
	for _, h := range doc.hrefs {
		if target, ok := strings.CutPrefix(h, "#"); ok {
			require.Contains(t, doc.ids, target)
		} else {
			require.True(t, strings.HasPrefix(h, "./"), "%s leads out of the result directory", h)
		}
	}
	return doc
}

func writeSample(t *testing.T, run Run, res *checker.Result, h *history.History) (dir, page string, doc document) {
	t.Helper()
	dir = t.TempDir()
	require.NoError(t, WriteAll(dir, run, res, h))
	b, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	return dir, string(b), parse(t, string(b))
}

func TestPageOfAConvictedRun(t *testing.T) {
	run, res, h := sample(5*ms, 3)
	dir, page, doc := writeSample(t, run, res, h)

	require.Contains(t, doc.text, "LOST 3 of 5,726 acknowledged messages")
	for _, a := range res.Checks[0].Anomalies {
		require.Contains(t, doc.text, valueText(a.Value))
	}
	require.Equal(t, 1, strings.Count(doc.text, "broke Survives - an acknowledged message is never lost"), "the first lost message quotes the guarantee, for all of them")
	require.Contains(t, doc.text, res.Checks[0].Anomalies[0].Text)
	require.Contains(t, doc.text, "B · isolate-leader", "a band that is too narrow for the whole name has a shorter one")
	require.Contains(t, doc.text, "n2 truncated log-1 from 4242 (epoch 2)")
	require.Contains(t, doc.text, "still n2 e1", "the leader that was cut off")
	require.Contains(t, doc.text, "longest unavailability: log-1 2.00 s")
	require.Contains(t, doc.text, "side A")
	require.Contains(t, doc.text, "side B")
	require.Contains(t, doc.text, "leader, epoch 1")
	require.Contains(t, doc.text, "lost contact to the quorum", "the node's log of the moment")
	require.Contains(t, doc.text, "its log was not collected", "n3 has none")
	require.Contains(t, doc.text, run.Command)
	require.Contains(t, doc.text, "faultline check "+run.Dir)
	require.Contains(t, doc.text, "faultline explain "+run.Dir+" 1:1922")
	require.Contains(t, doc.text, "acknowledged by n2 at offset 640", "the story of the message")
	require.Contains(t, doc.text, "faultline replay "+run.Dir)
	require.Contains(t, doc.text, "the tail of log-2 beyond the sentinel")
	require.Contains(t, doc.text, "at-most-oncenot promised")
	require.NotContains(t, page, "http-equiv=\"refresh\"")

	// The order in which a reader asks.
	last := -1
	for _, id := range []string{"verdict", "wrong", "when", "timeline", "where", "reproduce", "unchecked", "figures", "raw"} {
		at := -1
		for i, o := range doc.order {
			if o == id {
				at = i
			}
		}
		require.Greater(t, at, last, id)
		last = at
	}
	// Every lost message is a mark that leads to its row, and the row to its moment.
	require.GreaterOrEqual(t, strings.Count(page, `<a class="mark" href="#a`), 3)
	require.Contains(t, doc.hrefs, "#m0")
	require.Contains(t, doc.hrefs, "./summary.json")
	require.NoFileExists(t, filepath.Join(dir, ".index.html"))

	s, err := ReadSummary(dir)
	require.NoError(t, err)
	require.Equal(t, 1, s.ExitCode)
	require.Equal(t, 3, s.Anomalies["lost"])
}

func TestPageStatesEveryVerdict(t *testing.T) {
	for _, tt := range []struct {
		name    string
		verdict checker.Verdict
		code    int
		word    string
		junit   string
	}{
		{"valid", checker.Valid, 0, "VALID", ""},
		{"invalid", checker.Invalid, 1, "INVALID", "<failure"},
		{"unknown", checker.Unknown, 2, "UNKNOWN", "<skipped"},
		{"harness error", checker.HarnessError, 255, "HARNESS ERROR", "<error"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			run, res, h := sample(50*ms, 0)
			res.Verdict, res.Sentence = tt.verdict, "The sentence of "+tt.name
			res.Checks = []checker.Check{{Name: "some-clause", Promised: true, Verdict: tt.verdict, Detail: "its detail"}}
			if tt.verdict == checker.Unknown {
				res.WhyInconclusive = []checker.Reason{{Why: "partition 2 was not drained", Change: "give --time 90s"}}
			}
			dir, _, doc := writeSample(t, run, res, h)
			require.Contains(t, doc.text, tt.word)
			require.Contains(t, doc.text, res.Sentence)
			if tt.verdict == checker.Unknown {
				require.Contains(t, doc.text, "partition 2 was not drained")
				require.Contains(t, doc.text, "give --time 90s")
			}
			s, err := ReadSummary(dir)
			require.NoError(t, err)
			require.Equal(t, tt.code, s.ExitCode)
			require.Equal(t, tt.verdict, s.Verdict)
			junit, err := os.ReadFile(filepath.Join(dir, JUnitFile))
			require.NoError(t, err)
			for _, tag := range []string{"<failure", "<skipped", "<error"} {
				require.Equal(t, tag == tt.junit, bytes.Contains(junit, []byte(tag)), tag)
			}
			md, err := os.ReadFile(filepath.Join(dir, MarkdownFile))
			require.NoError(t, err)
			require.True(t, bytes.HasPrefix(md, []byte("## "+tt.word+": ")))
		})
	}
}

func TestPageOfNothing(t *testing.T) {
	_, _, doc := writeSample(t, Run{}, nil, nil)
	require.Contains(t, doc.text, "HARNESS ERROR")
	require.Contains(t, doc.text, "the run ended before its history was judged")
	require.NotContains(t, doc.text, "Nothing was left out")

	dir, _, doc := writeSample(t, Run{Error: "node b did not start", Started: started}, nil, &history.History{})
	require.Contains(t, doc.text, "Harness error: node b did not start")
	require.Contains(t, doc.text, "the harness died")
	s, err := ReadSummary(dir)
	require.NoError(t, err)
	require.Equal(t, 255, s.ExitCode)
	require.NotNil(t, s.Faults)

	_, _, doc = writeSample(t, Run{System: "reference"}, &checker.Result{Verdict: checker.Valid, Sentence: "No anomaly in 0 acknowledged messages"}, &history.History{Closed: true})
	require.Contains(t, doc.text, "no checked clause was broken")
}

func TestHostileTextIsEscapedEverywhere(t *testing.T) {
	const evil = `</script><script>alert(1)</script><img src=x onerror="alert(2)">'"&|` + "`\x1b[31m\u202e\n]]>"
	run, res, h := sample(50*ms, 2)
	run.Command, run.Replay, run.System, run.Scheme, run.Workload, run.Environment = evil, evil, evil, evil, evil, evil
	run.Faults, run.Commit, run.PlanYAML, run.Expect, run.Dir = evil, evil, evil, evil, "results/"+evil
	run.Options, run.Versions = map[string]string{evil: evil}, map[string]string{evil: evil}
	run.NodeLogs["n1"] = []LogLine{{At: 12 * sec, Text: evil}}
	res.Sentence, res.NotChecked = evil, []string{evil}
	res.WhyInconclusive = []checker.Reason{{Why: evil, Change: evil}}
	res.Anomalies[evil] = 1
	res.Exercised[evil] = 1
	res.Availability.LongestKey = evil
	res.Availability.PerKeyMS[evil] = 1
	res.Availability.Latency[evil] = checker.Latency{}
	res.Counts.Phases[evil] = checker.PhaseCounts{}
	for i := range res.Checks {
		res.Checks[i].Name, res.Checks[i].Detail, res.Checks[i].Remedy = evil, evil, evil
	}
	for i := range res.Checks[0].Anomalies {
		a := &res.Checks[0].Anomalies[i]
		a.Class, a.Key, a.Producer, a.Node, a.Place, a.PlaceIn = evil, evil, evil, evil, evil, evil
		a.Missing, a.Fault, a.Cause, a.Text = []string{evil}, evil, evil, evil
	}
	for i := range h.Faults {
		h.Faults[i].Name, h.Faults[i].Detail, h.Faults[i].Role, h.Faults[i].Targets = evil, evil, evil, []string{evil}
	}
	for i := range h.Events {
		h.Events[i].Detail, h.Events[i].Leader = evil, ""
	}
	run.Nodes = append(run.Nodes, evil)
	h.Header.Nodes, h.Header.Keys[1], h.Header.Clients[0].Name = run.Nodes, evil, evil
	h.Phases[1].Name = evil
	h.Notes = []history.Note{{Text: evil}}
	for i := range h.Ops {
		h.Ops[i].Code = evil
	}
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "checks"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checks", `a"b<c>#?&%41 javascript:.html`), nil, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "javascript:alert(1)"), nil, 0o644))
	require.NoError(t, WriteAll(dir, run, res, h))

	page, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	doc := parse(t, string(page))
	require.Contains(t, doc.text, `<script>alert(1)</script>`, "shown as text")
	require.Equal(t, 2, bytes.Count(page, []byte("<script")), "the data and the page's own script")
	require.Equal(t, 2, bytes.Count(page, []byte("</script")))
	require.NotContains(t, string(page), "\x1b")
	require.Contains(t, doc.hrefs, "./javascript:alert%281%29")
	require.Contains(t, doc.hrefs, "./checks/a%22b%3Cc%3E%23%3F&%2541%20javascript:.html")

	md, err := os.ReadFile(filepath.Join(dir, MarkdownFile))
	require.NoError(t, err)
	for _, line := range strings.Split(string(md), "\n") {
		if !strings.HasPrefix(line, "    ") {
			require.NotContains(t, line, "<script")
			require.NotContains(t, line, "<img")
		}
	}
	junit, err := os.ReadFile(filepath.Join(dir, JUnitFile))
	require.NoError(t, err)
	var suites junitSuites
	require.NoError(t, xml.Unmarshal(junit, &suites))
	require.Contains(t, suites.Suites[0].Cases[1].Name, `</script>`)

	var b bytes.Buffer
	require.NoError(t, PrintVerdict(&b, Summarize(run, res, h)))
	require.NotContains(t, b.String(), "\x1b")
	require.NotContains(t, b.String(), "\u202e")

	results := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(results, "a&b", "c\"d"), 0o755))
	require.NoError(t, WriteAll(filepath.Join(results, "a&b", "c\"d"), run, res, h))
	require.NoError(t, WriteIndex(results))
	index, err := os.ReadFile(filepath.Join(results, PageFile))
	require.NoError(t, err)
	doc = parse(t, string(index))
	require.Contains(t, doc.hrefs, "./a&b/c%22d/index.html")
	require.Equal(t, 1, bytes.Count(index, []byte("<script")))
}

func TestScriptAndStyleMatchThePolicy(t *testing.T) {
	_, page, _ := writeSample(t, Run{}, nil, nil)
	a := newAssets(tableScript, timelineScript)
	require.Contains(t, page, string(a.Script))
	require.Contains(t, page, string(a.Style))
	require.Contains(t, a.Policy, "default-src 'none'")
	require.NotContains(t, a.Policy, "unsafe")
	require.NotRegexp(t, `(?i)https?:|//[a-z]|@import|url\([^#]`, styleText)
	require.NotRegexp(t, `(?i)https?:|innerHTML|eval\(|fetch\(|XMLHttp`, tableScript+timelineScript)
	require.NotContains(t, styleText+tableScript+timelineScript, "</")
}

func TestAMillionOperationsStaySmall(t *testing.T) {
	plainly(t)
	run, res, h := sample(37*time.Microsecond.Nanoseconds(), 100_000)
	require.GreaterOrEqual(t, len(h.Ops), 999_000)
	lost := len(res.Checks[0].Anomalies)
	require.Greater(t, lost, 10_000)
	for i := range 20_000 {
		h.Events = append(h.Events, history.NodeEvent{Node: h.Header.Nodes[i%3], At: int64(i) * 2 * ms, Kind: "leader", Key: "log-2", Epoch: int32(i + 2), ISR: h.Header.Nodes[:1+i%3]})
	}
	for n := range 3 {
		var lines []LogLine
		for i := range 40_000 {
			lines = append(lines, LogLine{At: int64(i) * ms, Text: strings.Repeat("x", 1500)})
		}
		run.NodeLogs[run.Nodes[n]] = lines
	}
	begin := time.Now()
	dir, page, doc := writeSample(t, run, res, h)
	t.Logf("%d operations, %d anomalies: %d bytes in %v", len(h.Ops), lost, len(page), time.Since(begin))
	require.Less(t, len(page), 5_000_000)
	require.Contains(t, doc.text, count(lost)+" anomalies, grouped")
	require.Contains(t, doc.text, "1,000 of "+count(lost)+" anomalies")
	require.Contains(t, doc.text, "spans not drawn")

	s, err := ReadSummary(dir)
	require.NoError(t, err)
	require.Equal(t, lost, s.Anomalies["lost"])
	require.Equal(t, lost, s.Checks[0].Count)
	require.Len(t, s.Checks[0].Anomalies, maxListed)
}

func TestSummaryRoundTrip(t *testing.T) {
	run, res, h := sample(5*ms, 3)
	dir, _, _ := writeSample(t, run, res, h)
	s, err := ReadSummary(dir)
	require.NoError(t, err)
	require.Equal(t, Summarize(run, res, h), s)

	b, err := os.ReadFile(filepath.Join(dir, SummaryFile))
	require.NoError(t, err)
	var again bytes.Buffer
	require.NoError(t, s.WriteJSON(&again))
	require.Equal(t, string(b), again.String(), "the order of keys is fixed")

	var fields map[string]any
	require.NoError(t, json.Unmarshal(b, &fields))
	for _, f := range []string{
		"verdict", "exit_code", "system", "scheme", "workload", "environment", "seed", "command", "ops", "faults", "checks",
		"anomalies", "not_checked", "why_inconclusive", "availability", "versions",
	} {
		require.Contains(t, fields, f)
	}
	require.NotContains(t, string(b), "null")
	f := fields["faults"].([]any)[0].(map[string]any)
	require.Equal(t, map[string]any{
		"name": "partition:isolate-leader", "targets": []any{"n2"}, "sides": []any{[]any{"n2"}, []any{"n1", "n3"}}, "role": "leader",
		"start": 12000.0, "end": 19000.0, "proven": true, "healed": true, "detail": f["detail"],
	}, f)
	require.Equal(t, 2000.0, fields["availability"].(map[string]any)["longest_unavailable_ms"])

	// A stored result renders again from its summary.
	require.Equal(t, run.Duration, s.Run().Duration)
	require.Equal(t, run.Command, s.Run().Command)

	require.NoError(t, os.WriteFile(filepath.Join(dir, SummaryFile), []byte(`{"version":99}`), 0o644))
	_, err = ReadSummary(dir)
	require.ErrorContains(t, err, "version 99 is not 1")
}

func TestSummaryHoldsNoNumberThatJSONCannot(t *testing.T) {
	run, res, h := sample(50*ms, 0)
	zero := 0.0
	res.Availability.RecoveryMS = []float64{1 / zero}
	res.Availability.Latency["during"] = checker.Latency{P50: zero / zero}
	var b bytes.Buffer
	require.NoError(t, Summarize(run, res, h).WriteJSON(&b))
	require.Contains(t, b.String(), `"p50": -1`)
}

func TestFaultSpans(t *testing.T) {
	stage := func(s history.FaultStage, at int64) history.Fault {
		return history.Fault{Name: "kill", Stage: s, At: at, Detail: string(s), Targets: []string{"n1"}}
	}
	for _, tt := range []struct {
		name           string
		stages         []history.Fault
		proven, healed bool
		end            int64
	}{
		{"complete", []history.Fault{stage(history.Injecting, 1), stage(history.Injected, 2), stage(history.Proven, 3), stage(history.StillProven, 4), stage(history.Healing, 5), stage(history.Healed, 6)}, true, true, 6},
		{"never proven", []history.Fault{stage(history.Injecting, 1), stage(history.Injected, 2), stage(history.Unproven, 3), stage(history.Healing, 5), stage(history.Healed, 6)}, false, true, 6},
		{"not proven before healing", []history.Fault{stage(history.Injected, 2), stage(history.Proven, 3), stage(history.Unproven, 4), stage(history.Healing, 5), stage(history.Healed, 6)}, false, true, 6},
		{"second proof missing without a word", []history.Fault{stage(history.Injected, 2), stage(history.Proven, 3), stage(history.Healing, 5), stage(history.Healed, 6)}, false, true, 6},
		{"healing not proven", []history.Fault{stage(history.Injected, 2), stage(history.Proven, 3), stage(history.StillProven, 4), stage(history.Healing, 5), stage(history.Unproven, 6)}, true, false, history.Infinity},
		{"cut short", []history.Fault{stage(history.Injecting, 1)}, false, false, history.Infinity},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spans := faultSpans(&history.History{Faults: tt.stages})
			require.Len(t, spans, 1)
			require.Equal(t, tt.proven, spans[0].proven())
			require.Equal(t, tt.healed, spans[0].healed())
			require.Equal(t, tt.end, spans[0].End)
		})
	}
}

func TestReigns(t *testing.T) {
	leader := func(node string, at int64, epoch int32) history.NodeEvent {
		return history.NodeEvent{Node: node, At: at, Kind: "leader", Key: "k", Epoch: epoch}
	}
	h := &history.History{Events: []history.NodeEvent{
		leader("a", 10, 1),
		leader("b", 30, 2), // a is cut off and does not know
		{Node: "a", At: 50, Kind: "follower", Key: "k", Epoch: 2},
		leader("c", 70, 3), // b was killed at 60
		{Node: "c", At: 80, Kind: "leader", Key: "other", Epoch: 9},
	}}
	kill := []faultSpan{{Name: "kill", Targets: []string{"b"}, Start: 60, End: 90, Stages: []history.Fault{{Stage: history.Proven, At: 61}}}}
	require.Equal(t, []reign{
		{Node: "a", Epoch: 1, From: 10, To: 30},
		{Node: "a", Epoch: 1, From: 30, To: 50, Stale: true},
		{Node: "b", Epoch: 2, From: 30, To: 60},
		{Node: "c", Epoch: 3, From: 70, To: history.Infinity},
	}, reigns(h, kill, "k"))
	require.Empty(t, reigns(h, nil, "none"))
	kill[0].Stages = nil // a kill that was not proven ends no reign
	require.Contains(t, reigns(h, kill, "k"), reign{Node: "b", Epoch: 2, From: 70, To: history.Infinity, Stale: true})
}

func TestMemberships(t *testing.T) {
	h := &history.History{Events: []history.NodeEvent{
		{Node: "a", At: 1, Kind: "leader", Key: "k", Epoch: 1, ISR: []string{"b", "a"}},
		{Node: "a", At: 2, Kind: "isr", Key: "k", Epoch: 1, ISR: []string{"a", "b"}},
		{Node: "b", At: 5, Kind: "isr", Key: "k", Epoch: 2, ISR: []string{"b"}},
		{Node: "a", At: 6, Kind: "isr", Key: "k", Epoch: 1, ISR: []string{"a"}}, // of a leader that is no more
	}}
	require.Equal(t, []membership{{ISR: []string{"a", "b"}, From: 1, To: 5}, {ISR: []string{"b"}, From: 5, To: history.Infinity}}, memberships(h, "k"))
}

func TestSeries(t *testing.T) {
	h := &history.History{Ops: []history.Op{
		{Kind: history.Send, Call: 0, Return: 4 * ms, Outcome: history.OK},
		{Kind: history.Send, Call: 1 * ms, Return: 15 * ms, Outcome: history.OK},
		{Kind: history.Send, Call: 12 * ms, Return: 13 * ms, Outcome: history.Failed},
		{Kind: history.Send, Call: 25 * ms, Return: history.Infinity, Outcome: history.Indeterminate},
		{Kind: history.Poll, Call: 0, Return: 1 * ms, Outcome: history.OK},
	}}
	s := sendSeries(h, 30*ms, 1000)
	require.Equal(t, series{
		Width: 10, OK: []int{1, 1, 0}, Failed: []int{0, 1, 0}, Ind: []int{0, 0, 1},
		P50: []float64{4, 14, -1}, P99: []float64{4, 14, -1}, Max: []float64{4, 14, -1},
	}, s)
}

func TestLineTime(t *testing.T) {
	want := time.Date(2026, 3, 1, 12, 0, 1, 500_000_000, time.UTC)
	for _, line := range []string{
		`2026-03-01T12:00:01.500Z stderr F hello`,
		`time=2026-03-01T12:00:01.5Z level=INFO msg=x`,
		`{"time":"2026-03-01T13:00:01.500000+01:00","level":"INFO"}`,
		`[2026-03-01 12:00:01,500] INFO [KafkaServer id=1] started`,
		`2026-03-01 12:00:01.500000+00:00 [info] <0.9.0> rabbit`,
	} {
		got, ok := lineTime(line)
		require.True(t, ok, line)
		require.True(t, got.Equal(want), "%s: %v", line, got)
	}
	for _, line := range []string{"", "goroutine 1 [running]:", "2026-99-99T12:00:00Z"} {
		_, ok := lineTime(line)
		require.False(t, ok, line)
	}
}

func TestLogsAndPlanAreReadFromTheResultDirectory(t *testing.T) {
	run, res, h := sample(50*ms, 1)
	run.NodeLogs, run.PlanYAML = nil, ""
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "plan.yaml"), []byte("version: 1 # stored"), 0o644))
	nodes := filepath.Join(dir, "nodes", "n2")
	require.NoError(t, os.MkdirAll(nodes, 0o755))
	at := time.Duration(res.Checks[0].Anomalies[0].At)
	var log strings.Builder
	line := func(d time.Duration, text string) {
		fmt.Fprintf(&log, "time=%s level=WARN msg=%q\n", started.Add(d).Format(time.RFC3339Nano), text)
	}
	line(at-3*time.Second, "long before")
	line(at-time.Second, "just before")
	log.WriteString("\tits second line\n")
	line(at+time.Second, "just after "+strings.Repeat("y", 1<<17))
	line(at+3*time.Second, "long after")
	require.NoError(t, os.WriteFile(filepath.Join(nodes, "log"), []byte(log.String()), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(nodes, "events.jsonl"), []byte(started.Add(at).Format(time.RFC3339)+" not a log"), 0o644))
	require.NoError(t, WriteAll(dir, run, res, h))
	page, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	doc := parse(t, string(page))
	require.Contains(t, doc.text, "just before")
	require.Contains(t, doc.text, "its second line")
	require.Contains(t, doc.text, "version: 1 # stored")
	require.Contains(t, doc.text, "just after yyy")
	require.NotContains(t, doc.text, "long before")
	require.NotContains(t, doc.text, "long after")
	require.NotContains(t, doc.text, "not a log")
	require.Contains(t, doc.hrefs, "./nodes/n2/log")
	require.Less(t, len(page), 500_000)
}

func TestNearest(t *testing.T) {
	id := func(i int64) int64 { return i }
	require.Equal(t, []int64{8, 9, 11}, nearest([]int64{1, 8, 20, 11, 9}, 10, 3, id))
	require.Equal(t, []int64{1, 2}, nearest([]int64{2, 1}, 10, 3, id))
}

func TestMomentsShowTheProof(t *testing.T) {
	run, res, h := sample(5*ms, 3)
	rows := anomalyRows(h, res)
	ms := findMoments(h, rows)
	require.Len(t, ms, 1, "three losses in 60 ms are one moment")
	require.Len(t, ms[0].Anoms, 3)
	proof := map[int64]bool{}
	for i, op := range ms[0].Ops {
		require.Equal(t, "log-1", op.Key)
		if i > 0 {
			require.LessOrEqual(t, ms[0].Ops[i-1].call, op.call)
		}
		if op.Evidence {
			proof[op.ID] = true
			require.Equal(t, "n2", op.Node)
		}
	}
	for _, a := range res.Checks[0].Anomalies {
		require.True(t, proof[a.Ops[0]])
	}
	require.LessOrEqual(t, len(ms[0].Ops), 2*neighbours+3)
	ms[0].describe(run, h, faultSpans(h), reigns(h, faultSpans(h), "log-1"), memberships(h, "log-1"))
	require.Equal(t, roleRow{Node: "n2", Acked: true, Role: "leader, epoch 1", Missing: true, Faults: "partition:isolate-leader side A"}, ms[0].Roles[1])
	require.Equal(t, "follower, in sync", ms[0].Roles[0].Role)
}

func TestUnprovenFaultIsSaidSo(t *testing.T) {
	run, res, h := sample(50*ms, 0)
	h.Faults = []history.Fault{{Name: "kill", Stage: history.Injected, At: sec, Targets: []string{"n1"}}, {Name: "kill", Stage: history.Unproven, At: 2 * sec, Detail: "the process still runs"}}
	res.Verdict, res.Sentence = checker.Unknown, "Could not decide: fault 0 had no effect"
	_, page, doc := writeSample(t, run, res, h)
	require.Contains(t, doc.text, "NOT PROVEN")
	require.Contains(t, doc.text, "fault 0, kill: the process still runs")
	require.Contains(t, page, `class="seg fault unproven"`)
}

func TestWriteFileReplacesAtOnceOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x")
	require.NoError(t, writeFile(path, func(w io.Writer) error { _, err := io.WriteString(w, "old"); return err }))
	full := &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}
	err := writeFile(path, func(w io.Writer) error {
		_, err := io.WriteString(w, strings.Repeat("n", 1<<20))
		require.NoError(t, err)
		return full
	})
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.ErrorContains(t, err, "the disk is full")
	require.ErrorContains(t, err, "faultline report "+dir)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "old", string(b))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file stays")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o644), info.Mode().Perm())

	require.ErrorContains(t, WriteAll(filepath.Join(dir, "none"), Run{}, nil, nil), "summary.json")
}

func TestPorcupinePagesAreLinked(t *testing.T) {
	run, res, h := sample(50*ms, 0)
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "checks"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "checks", "log-1.html"), []byte("x"), 0o644))
	require.NoError(t, WriteAll(dir, run, res, h))
	page, err := os.ReadFile(filepath.Join(dir, PageFile))
	require.NoError(t, err)
	require.Contains(t, string(page), `Porcupine's own picture: <a href="./checks/log-1.html">`)
}

func TestIndex(t *testing.T) {
	results := t.TempDir()
	put := func(group, run string, seed uint64, at time.Time, lost int) {
		r, res, h := sample(50*ms, lost)
		r.Seed, r.Started = seed, at
		dir := filepath.Join(results, group, run)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		require.NoError(t, WriteAll(dir, r, res, h))
	}
	put("a", "1", 101, started, 0)
	put("b", "2", 102, started.Add(time.Hour), 2)
	put("a", "3", 103, started.Add(-time.Hour), 0)
	require.NoError(t, os.Symlink(filepath.Join(results, "b", "2"), filepath.Join(results, "latest")))
	require.NoError(t, os.MkdirAll(filepath.Join(results, "a", "running"), 0o755))
	require.NoError(t, os.MkdirAll(filepath.Join(results, "a", "broken"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(results, "a", "broken", SummaryFile), []byte("{"), 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(results, "README.md"), nil, 0o644))

	require.NoError(t, WriteIndex(results))
	b, err := os.ReadFile(filepath.Join(results, PageFile))
	require.NoError(t, err)
	doc := parse(t, string(b))
	page := string(b)
	require.Contains(t, doc.text, "4 runs")
	require.Equal(t, 1, strings.Count(page, "./b/2/index.html"), "latest is not a run of its own")
	require.NotContains(t, page, "running")
	require.Less(t, strings.Index(page, "./b/2/"), strings.Index(page, "./a/1/"))
	require.Less(t, strings.Index(page, "./a/1/"), strings.Index(page, "./a/3/"))
	require.Contains(t, doc.text, "LOST 2 of")
	require.Contains(t, doc.text, "a/broken")

	require.Error(t, WriteIndex(filepath.Join(results, "none")))
	empty := t.TempDir()
	require.NoError(t, WriteIndex(empty))
	b, err = os.ReadFile(filepath.Join(empty, PageFile))
	require.NoError(t, err)
	require.Contains(t, parse(t, string(b)).text, "No run has left a result here yet")
}

func TestMomentTally(t *testing.T) {
	m := moment{Anoms: []anomalyRow{{Class: "lost"}, {Class: "inconsistent-offset"}, {Class: "lost"}}}
	require.Equal(t, "2 lost, 1 inconsistent-offset", m.Tally(), "each class is counted by itself")
}

func TestGroupsKeepLostMessagesFirst(t *testing.T) {
	rows := []anomalyRow{{Class: "lost", Key: "a"}, {Class: "lost", Key: "b"}, {Class: "lost", Key: "b"}, {Class: "moved"}, {Class: "moved"}, {Class: "moved"}}
	var got []string
	for _, g := range groupRows(rows) {
		got = append(got, g.Class+g.Key)
	}
	require.Equal(t, []string{"lostb", "losta", "moved"}, got, "by class as in the rows, the largest group of a class first")
}

// plainly leaves a test of one goroutine and many cases to the run without the race
// detector; `make test` has both.
func plainly(t *testing.T) {
	t.Helper()
	if raceEnabled {
		t.Skip("runs without the race detector")
	}
}
