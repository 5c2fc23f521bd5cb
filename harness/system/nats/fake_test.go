package nats

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/system"
)

// answer is what a fake server sends back for a message: headers (without their first
// line's "NATS/1.0") or none, and a body. Reply is where it wants to be answered.
type answer struct {
	status string // "503", or "" for a message without headers
	reply  string
	body   string
}

// fake is a server that speaks as much of NATS' protocol as nats.go needs, and answers
// each message as a test says. Nothing is answered where that says nothing.
type fake struct {
	on func(subject, body string) []answer

	l     net.Listener
	tasks sync.WaitGroup
	mu    sync.Mutex
	conns []net.Conn
}

func startFake(t *testing.T, on func(subject, body string) []answer) *fake {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	f := &fake{on: on, l: l}
	f.tasks.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			f.mu.Lock()
			f.conns = append(f.conns, c)
			f.mu.Unlock()
			f.tasks.Go(func() { f.serve(c) })
		}
	})
	t.Cleanup(f.stop)
	return f
}

func (f *fake) stop() {
	_ = f.l.Close()
	f.mu.Lock()
	for _, c := range f.conns {
		_ = c.Close()
	}
	f.mu.Unlock()
	f.tasks.Wait()
}

func (f *fake) serve(c net.Conn) {
	defer func() { _ = c.Close() }()
	fmt.Fprint(c, `INFO {"server_id":"F","version":"2.15.2","proto":1,"headers":true,"max_payload":1048576}`+"\r\n")
	subs := map[string]string{} // id by subject
	for r := bufio.NewReader(c); ; {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		words := strings.Fields(line)
		switch strings.ToUpper(words[0]) {
		case "PING":
			fmt.Fprint(c, "PONG\r\n")
		case "SUB":
			subs[words[1]] = words[len(words)-1]
		case "PUB", "HPUB":
			size, err := strconv.Atoi(words[len(words)-1])
			if err != nil {
				return
			}
			body := make([]byte, size+2)
			if _, err := io.ReadFull(r, body); err != nil {
				return
			}
			text := string(body[:size])
			if words[0] == "HPUB" {
				head, err := strconv.Atoi(words[len(words)-2])
				if err != nil {
					return
				}
				text = text[head:]
			}
			for _, a := range f.on(words[1], text) {
				f.answer(c, subs, words[2], a)
			}
		}
	}
}

// answer sends a to whoever subscribed to inbox, by name or with "*" at the end.
func (f *fake) answer(c net.Conn, subs map[string]string, inbox string, a answer) {
	id, ok := subs[inbox]
	if !ok {
		id = subs[inbox[:strings.LastIndex(inbox, ".")+1]+"*"]
	}
	subject := inbox
	if a.reply != "" {
		subject += " " + id + " " + a.reply
	} else {
		subject += " " + id
	}
	if a.status == "" {
		fmt.Fprintf(c, "MSG %s %d\r\n%s\r\n", subject, len(a.body), a.body)
		return
	}
	head := "NATS/1.0 " + a.status + "\r\n\r\n"
	fmt.Fprintf(c, "HMSG %s %d %d\r\n%s%s\r\n", subject, len(head), len(head)+len(a.body), head, a.body)
}

// wall is the run's clock in tests.
type wall struct{ begin time.Time }

func (w wall) Now() time.Duration { return time.Since(w.begin) }

func (w wall) Sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clusterAt is a cluster whose clients reach their nodes at the addresses of at.
func clusterAt(workload string, set map[string]string, at map[string]string) *cluster {
	spec := system.Spec{Scheme: "jetstream", Workload: workload, RunID: "r1", Nodes: []string{"n1", "n2", "n3"}, Set: set}
	resolve := func(node string) (string, error) {
		if a, ok := at[node]; ok {
			return a, nil
		}
		return "", fmt.Errorf("no address of %s", node)
	}
	return System{}.connect(spec, wall{time.Now()}, resolve, resolve)
}
