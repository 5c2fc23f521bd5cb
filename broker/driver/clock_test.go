package driver

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestSkew(t *testing.T) {
	const second = int64(time.Second)
	for _, c := range []struct {
		name, file string
		at, want   int64 // in nanoseconds
	}{
		{"nothing", `{}`, 7 * second, 7 * second},
		{"a jump", `{"offset":-3000000000}`, 7 * second, 4 * second},
		{"a jump, with its rate", `{"since":5000000000,"offset":3000000000,"rate":1}`, 7 * second, 10 * second},
		{"a fast clock", `{"since":5000000000,"rate":1.5}`, 7 * second, 8 * second},
		{"a slow clock that was wrong", `{"since":5000000000,"offset":1000000000,"rate":0.5}`, 7 * second, 7 * second},
		{"a strobe, in its first period", `{"since":5000000000,"rate":1,"by":60000000000,"period":2000000000}`, 6 * second, 66 * second},
		{"in its second", `{"since":5000000000,"rate":1,"by":60000000000,"period":2000000000}`, 7 * second, 7 * second},
		{"in its third", `{"since":5000000000,"rate":1,"by":60000000000,"period":2000000000}`, 9 * second, 69 * second},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s skew
			require.NoError(t, json.Unmarshal([]byte(c.file), &s))
			require.NoError(t, s.valid())
			require.Equal(t, c.want, s.at(c.at))
		})
	}
}

// TestClock: the node's wall clock goes by its file, and comes back; the machine's
// time of events does not change, and nobody is disturbed.
func TestClock(t *testing.T) {
	nodes := newCluster(t, 1)
	n := nodes[0]
	n.cfg.Clock = filepath.Join(t.TempDir(), "clock")
	tell := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(n.cfg.Clock+".new", []byte(text), 0o600))
		require.NoError(t, os.Rename(n.cfg.Clock+".new", n.cfg.Clock))
	}
	offset := func() time.Duration {
		status, body := n.get("/clock")
		wall, err := strconv.ParseInt(strings.TrimSpace(body), 10, 64)
		if status != http.StatusOK || err != nil {
			return 1
		}
		return time.Duration(wall - time.Now().UnixNano()).Round(time.Minute)
	}
	shows := func(want time.Duration) {
		t.Helper()
		require.Eventually(t, func() bool { return offset() == want }, limit, tick, "%s", want)
	}
	tell(`{"offset":-7200000000000}`)
	begin := time.Now().UnixNano()
	n.start()
	n.requireReady()
	shows(-2 * time.Hour)
	c := client(t, seeds(nodes))
	createTopic(t, c, "t", 1, 1)
	// Each line of the log says that the one before was looked at.
	for text, say := range map[string]string{`{"rate":-1}`: "a rate from 0 to 1000", `{"offset":`: "unexpected end of JSON"} {
		tell(text)
		require.Eventually(t, func() bool { return strings.Contains(n.log.String(), say) }, limit, tick)
		require.Equal(t, -2*time.Hour, offset(), "it stays as it is")
	}
	tell(`{"offset":3600000000000}`)
	shows(time.Hour)
	require.NoError(t, os.Remove(n.cfg.Clock))
	shows(0)
	n.stop()
	require.Equal(t, 1, strings.Count(n.log.String(), "a rate from 0 to 1000"), "it complains once")

	events := 0
	for line := range strings.Lines(n.out.String()) {
		var ev struct{ Wall, Machine int64 }
		require.NoError(t, json.Unmarshal([]byte(line), &ev))
		require.GreaterOrEqual(t, ev.Machine, begin)
		require.LessOrEqual(t, ev.Machine, time.Now().UnixNano())
		require.Equal(t, -2*time.Hour, time.Duration(ev.Wall-ev.Machine).Round(time.Minute), line)
		events++
	}
	require.Positive(t, events)
}
