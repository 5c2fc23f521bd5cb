package report

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

const (
	maxLogLine  = 1000      // how much of a line is kept; a longer one is cut
	maxLogBytes = 800 << 10 // of all logs on a page
	maxWindow   = 20_000    // lines looked at in one window
)

// stamp finds the time in a log line: RFC 3339, and the forms with a blank or a
// decimal comma that brokers on the JVM and on Erlang write.
var stamp = regexp.MustCompile(`(\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?`)

// lineTime returns the time that a log line carries near its beginning. A time
// without zone is taken for UTC.
func lineTime(line string) (time.Time, bool) {
	m := stamp.FindStringSubmatch(line[:min(len(line), 300)])
	if m == nil {
		return time.Time{}, false
	}
	zone := strings.ReplaceAll(m[4], ":", "")
	if zone == "" || zone == "Z" {
		zone = "+0000"
	}
	fraction := m[3]
	if fraction == "" {
		fraction = "0"
	}
	t, err := time.Parse("2006-01-02 15:04:05.999999999 -0700", m[1]+" "+m[2]+"."+fraction+" "+zone)
	return t, err == nil
}

// logLines returns the limit lines of one node that are nearest to a moment and
// not more than logWindow away, and how many more there were. A node without a
// log gives fs.ErrNotExist.
func logLines(dir string, run Run, node string, at int64, limit int) (lines []LogLine, more int, err error) {
	defer func() {
		all := len(lines)
		lines = nearest(lines, at, limit, func(l LogLine) int64 { return l.At })
		more += all - len(lines)
	}()
	keep := func(l LogLine) {
		if l.At < at-logWindow || l.At > at+logWindow {
			return
		}
		if len(lines) == maxWindow {
			more++
			return
		}
		lines = append(lines, l)
	}
	if run.NodeLogs != nil {
		all, ok := run.NodeLogs[node]
		if !ok {
			return nil, 0, fs.ErrNotExist
		}
		for _, l := range all {
			keep(l)
		}
		return lines, more, nil
	}
	if run.Started.IsZero() || node == "" || !filepath.IsLocal(node) {
		return nil, 0, fs.ErrNotExist
	}
	entries, err := os.ReadDir(filepath.Join(dir, "nodes", node))
	if err != nil {
		return nil, 0, err
	}
	found := false
	for _, e := range entries {
		n := e.Name()
		if !e.Type().IsRegular() || (n != "log" && n != "log.txt" && !strings.HasSuffix(n, ".log")) {
			continue
		}
		found = true
		if err := readLog(filepath.Join(dir, "nodes", node, n), run.Started, keep); err != nil {
			return nil, 0, err
		}
	}
	if !found {
		return nil, 0, fs.ErrNotExist
	}
	return lines, more, nil
}

// readLog calls keep for every line of a log file; a line without a time of its
// own has that of the line before.
func readLog(path string, started time.Time, keep func(LogLine)) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	at := int64(-1)
	for {
		line, err := readLine(r)
		if line != "" {
			if t, ok := lineTime(line); ok {
				at = int64(t.Sub(started))
			}
			if at >= 0 {
				keep(LogLine{At: at, Text: line})
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", path, err)
		}
	}
}

// readLine reads one line and keeps at most maxLogLine bytes of it.
func readLine(r *bufio.Reader) (string, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		if room := maxLogLine - len(b); room > 0 {
			b = append(b, part[:min(len(part), room)]...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return strings.TrimRight(string(b), "\r\n"), err
	}
}

// addLogs puts every node's log of ±2 s around m into it, as far as budget, in
// bytes over the whole page, allows.
func (m *moment) addLogs(dir string, run Run, budget *int) {
	for _, n := range firstN(run.Nodes, maxNodes) {
		l := nodeLog{Node: n}
		lines, more, err := logLines(dir, run, n, m.At, maxLogLines)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			l.None = "its log was not collected"
		case err != nil:
			l.None = "its log could not be read: " + err.Error()
		case len(lines) == 0:
			l.None = "it logged nothing in these four seconds"
		}
		l.More = more
		for _, line := range lines {
			text := printable(shorten(line.Text, maxLogLine))
			if *budget -= len(text); *budget < 0 {
				l.More++
				continue
			}
			l.Lines = append(l.Lines, logRow{At: seconds(line.At), Text: text})
		}
		m.Logs = append(m.Logs, l)
	}
}
