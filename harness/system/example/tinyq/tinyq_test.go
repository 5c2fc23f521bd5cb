package tinyq

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server opens a server on a folder and serves it until the test ends or it is aborted.
func server(t *testing.T, cfg Config) (*Server, string) {
	t.Helper()
	cfg.Queues = []string{"q"}
	s, err := Open(cfg)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(ctx, l) // aborted servers say that their file is closed
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return s, l.Addr().String()
}

// caller is a client's.
type caller struct {
	t    *testing.T
	conn net.Conn
	in   *json.Decoder
}

func open(t *testing.T, at, name string) *caller {
	t.Helper()
	conn, err := net.Dial("tcp", at)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	c := &caller{t, conn, json.NewDecoder(conn)}
	c.ask(Request{Do: "hello", Name: name})
	return c
}

func (c *caller) ask(r Request) Answer {
	c.t.Helper()
	require.NoError(c.t, json.NewEncoder(c.conn).Encode(r))
	var a Answer
	require.NoError(c.t, c.in.Decode(&a))
	return a
}

func (c *caller) put(body string) {
	c.t.Helper()
	require.Empty(c.t, c.ask(Request{Do: "put", Queue: "q", Body: []byte(body)}).Error)
}

func (c *caller) take(n int) []Message {
	c.t.Helper()
	return c.ask(Request{Do: "take", Queue: "q", Most: n}).Messages
}

func bodies(ms []Message) (all []string) {
	for _, m := range ms {
		all = append(all, string(m.Body))
	}
	return all
}

func TestTakeSettleGoBack(t *testing.T) {
	_, at := server(t, Config{Dir: t.TempDir()})
	a, b := open(t, at, "a"), open(t, at, "b")
	for _, body := range []string{"1", "2", "3", "4"} {
		a.put(body)
	}
	got := a.take(3)
	require.Equal(t, []string{"1", "2", "3"}, bodies(got))
	require.Equal(t, Answer{Ready: 1, Taken: 3, Sessions: 2}, b.ask(Request{Do: "count", Queue: "q"}))
	require.Empty(t, a.ask(Request{Do: "accept", ID: got[1].ID}).Error)
	require.Empty(t, a.ask(Request{Do: "release", ID: got[0].ID}).Error)
	require.NotEmpty(t, a.ask(Request{Do: "accept", ID: got[0].ID}).Error, "it gave that back")
	require.NotEmpty(t, b.ask(Request{Do: "accept", ID: got[2].ID}).Error, "another session holds it")
	again := b.take(9)
	require.Equal(t, []string{"1", "4"}, bodies(again))
	require.Equal(t, 2, again[0].Times)
	require.Empty(t, a.ask(Request{Do: "bye"}).Error)
	require.Equal(t, []string{"3"}, bodies(b.take(9)), "what a session held when it ended goes back")
	require.Empty(t, b.take(9))
}

func TestTakeWaits(t *testing.T) {
	_, at := server(t, Config{Dir: t.TempDir()})
	a, b := open(t, at, "a"), open(t, at, "b")
	got := make(chan []string)
	go func() { got <- bodies(b.ask(Request{Do: "take", Queue: "q", Most: 1, WaitMS: 60_000}).Messages) }()
	a.put("1")
	require.Equal(t, []string{"1"}, <-got)
	require.Empty(t, b.ask(Request{Do: "take", Queue: "q", Most: 1, WaitMS: 1}).Messages)
}

func TestHelloEndsOlderSessions(t *testing.T) {
	_, at := server(t, Config{Dir: t.TempDir()})
	old := open(t, at, "a")
	old.put("1")
	require.Len(t, old.take(1), 1)
	next := open(t, at, "a")
	require.Equal(t, []string{"1"}, bodies(next.take(1)), "it was back when hello was answered")
	require.Equal(t, 1, next.ask(Request{Do: "count", Queue: "q"}).Sessions)
	_ = json.NewEncoder(old.conn).Encode(Request{Do: "take", Queue: "q", Most: 1}) // its connection may be closed already
	var a Answer
	require.Error(t, old.in.Decode(&a))
}

func TestSilentSessionEnds(t *testing.T) {
	s, at := server(t, Config{Dir: t.TempDir(), Idle: 2 * time.Second})
	silent := open(t, at, "silent")
	silent.put("1")
	require.Len(t, silent.take(1), 1)
	var a Answer
	require.ErrorIs(t, silent.in.Decode(&a), io.EOF, "the server closes the connection by itself")
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(t, s.sessions)
	require.Len(t, s.ready["q"], 1)
}

// What survives the end of a server, by what its answers mean.
func TestRestart(t *testing.T) {
	for _, d := range []Durability{Synced, Written, Buffered} {
		t.Run(string(d), func(t *testing.T) {
			cfg := Config{Dir: t.TempDir(), Durability: d}
			s, at := server(t, cfg)
			c := open(t, at, "a")
			for _, body := range []string{"1", "2", "3"} {
				c.put(body)
			}
			require.Empty(t, c.ask(Request{Do: "accept", ID: c.take(1)[0].ID}).Error)
			s.Abort()
			_, at = server(t, cfg)
			got := bodies(open(t, at, "a").take(9))
			if d == Buffered && len(got) == 0 {
				return // the file is written every 200 ms, and may have been
			}
			require.Equal(t, []string{"2", "3"}, got)
		})
	}
}

func TestTornTail(t *testing.T) {
	cfg := Config{Dir: t.TempDir()}
	s, at := server(t, cfg)
	c := open(t, at, "a")
	c.put("1")
	c.put("2")
	s.Abort()
	path := filepath.Join(cfg.Dir, LogFile)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	second := bytes.IndexByte(whole, '\n') + 1
	for _, cut := range []int{0, 1, second - 1, second, second + 1, second + 9, len(whole) - 2, len(whole) - 1} {
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o644))
		s, err := Open(Config{Dir: cfg.Dir, Queues: []string{"q"}})
		require.NoError(t, err)
		n := len(s.ready["q"])
		require.LessOrEqual(t, n, 1, "cut at %d", cut)
		require.NoError(t, s.log.append(entry{Put: 9, Queue: "q", Body: []byte("9")}))
		require.NoError(t, s.log.file.Close())
		s, err = Open(Config{Dir: cfg.Dir, Queues: []string{"q"}})
		require.NoError(t, err)
		require.Len(t, s.ready["q"], n+1, "what was appended behind the cut at %d is there", cut)
		require.NoError(t, s.log.file.Close())
	}
}

func TestRefusals(t *testing.T) {
	_, err := Open(Config{Dir: t.TempDir(), Durability: "hoped"})
	require.ErrorContains(t, err, "known are synced, written, buffered")
	_, err = Open(Config{Dir: filepath.Join(t.TempDir(), "none")})
	require.Error(t, err)
	_, at := server(t, Config{Dir: t.TempDir()})
	c := open(t, at, "a")
	require.Equal(t, "no such queue", c.ask(Request{Do: "put", Queue: "r"}).Error)
	require.Equal(t, "no such queue", c.ask(Request{Do: "count", Queue: "r"}).Error)
	require.Equal(t, `cannot "dance"`, c.ask(Request{Do: "dance"}).Error)
}
