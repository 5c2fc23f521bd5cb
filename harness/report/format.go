package report

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/checker/history"
)

// valueText writes a value as its producer and sequence number, "3:17"; what
// concerns no message (sequence numbers count from 1) is "–".
func valueText(v history.Value) string {
	if v.Seq() == 0 {
		return "–"
	}
	return v.String()
}

// count writes n with thousands separated by commas.
func count(n int) string {
	s := strconv.Itoa(n)
	neg := strings.HasPrefix(s, "-")
	s = strings.TrimPrefix(s, "-")
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	if neg {
		return "-" + s
	}
	return s
}

// plural writes a count with its noun: "1 fault", "2 faults", "3 anomalies".
func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	if stem, ok := strings.CutSuffix(noun, "ly"); ok {
		return count(n) + " " + stem + "lies" // anomaly
	}
	return count(n) + " " + noun + "s"
}

// timeLayout is how moments of the calendar are written, in UTC.
const timeLayout = "2006-01-02 15:04:05"

// startedText says when a run began, or "" where that is not known.
func startedText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return "started " + t.UTC().Format(timeLayout) + " UTC"
}

// seconds writes a time on the run's clock.
func seconds(ns int64) string {
	if ns == history.Infinity {
		return "never"
	}
	return fmt.Sprintf("%.3f s", float64(ns)/1e9)
}

// millis writes a duration given in milliseconds with three significant digits;
// negative means that it never came.
func millis(ms float64) string {
	switch {
	case ms < 0:
		return "never"
	case ms >= 10_000:
		return fmt.Sprintf("%.1f s", ms/1000)
	case ms >= 1000:
		return fmt.Sprintf("%.2f s", ms/1000)
	case ms >= 100:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 10:
		return fmt.Sprintf("%.1f ms", ms)
	}
	return fmt.Sprintf("%.2f ms", ms)
}

// percent writes a share.
func percent(share float64) string { return fmt.Sprintf("%.2g %%", 100*share) }

// elapsed writes a duration as a clock: "7s", "1m05s".
func elapsed(d time.Duration) string {
	d = d.Truncate(time.Second)
	if d < time.Minute {
		return fmt.Sprintf("%ds", int(d/time.Second))
	}
	return fmt.Sprintf("%dm%02ds", int(d/time.Minute), int(d%time.Minute/time.Second))
}

func offset(o int64) string {
	if o == history.NoOffset {
		return "–"
	}
	return strconv.FormatInt(o, 10)
}

// shorten cuts s to n characters, so that no text of a node can make a report
// large.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// printable replaces control characters, so that no text of a broker or a
// command line can move the cursor of a terminal or break a line of a table.
func printable(s string) string {
	return strings.Map(printableRune, s)
}

func printableRune(r rune) rune {
	switch {
	case r == '\t' || r == '\n' || r == '\r':
		return ' '
	case r < 0x20 || r >= 0x7f && r < 0xa0: // control characters
		return '\uFFFD'
	case r == 0x2028 || r == 0x2029 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069: // line ends and directions
		return '\uFFFD'
	}
	return r
}

// ShellQuote quotes s for a POSIX shell where that is needed.
func ShellQuote(s string) string {
	plain := s != ""
	for _, r := range s {
		if !strings.ContainsRune("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_./:=,+@%", r) {
			plain = false
		}
	}
	if plain {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
