// Package tinyq is a small durable message queue, made to be put under test: one
// server, a few queues, a log file. Clients speak JSON over TCP, one request and one
// answer a line. A connection that said hello is a session: what it took and did not
// settle goes back when it ends.
//
//	{"do":"hello","name":"c1"}                          ends the older sessions of that name
//	{"do":"put","queue":"q0","body":"aGVsbG8="}         answered once the message is safe
//	{"do":"take","queue":"q0","most":4,"wait_ms":100}   gives messages: id, body, times
//	{"do":"accept","id":7}                              consumes a message that this session took
//	{"do":"release","id":7}                             gives it back
//	{"do":"count","queue":"q0"}                         says how many wait, how many are taken, and how many sessions there are
//	{"do":"bye"}                                        ends the session, and then the connection
//
// It keeps every message in memory and its log forever.
package tinyq

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"
)

// LogFile is the name of the log in its folder.
const LogFile = "tinyq.log"

// Durability says what an answer to put, accept or release means.
type Durability string

// The durabilities.
const (
	Synced   Durability = "synced"   // it is on disk
	Written  Durability = "written"  // the operating system has it
	Buffered Durability = "buffered" // it is in memory, and written within 200 ms
)

// Config describes a server.
type Config struct {
	Dir        string // of the log; it must exist
	Queues     []string
	Durability Durability    // default Synced
	Idle       time.Duration // a session from which nothing was heard for so long is over; default 10 s
}

// Request is one line from a client.
type Request struct {
	Do     string `json:"do"`
	Name   string `json:"name,omitempty"`
	Queue  string `json:"queue,omitempty"`
	Body   []byte `json:"body,omitempty"`
	Most   int    `json:"most,omitempty"`
	WaitMS int    `json:"wait_ms,omitempty"`
	ID     uint64 `json:"id,omitempty"`
}

// Answer is one line from the server. With an Error nothing happened.
type Answer struct {
	Error    string    `json:"error,omitempty"`
	Messages []Message `json:"messages,omitempty"`
	Ready    int       `json:"ready,omitempty"`    // count: messages that wait
	Taken    int       `json:"taken,omitempty"`    // count: messages that sessions took and did not settle
	Sessions int       `json:"sessions,omitempty"` // count: all of them
}

// Message is one that was taken.
type Message struct {
	ID    uint64 `json:"id"`
	Body  []byte `json:"body"`
	Times int    `json:"times"` // that it was given to somebody since the server started
}

// Server is one server.
type Server struct {
	cfg Config
	log *log

	mu       sync.Mutex
	last     uint64 // id of the newest message
	ready    map[string][]*message
	sessions map[*session]bool
	more     chan struct{} // closed when a message became ready
	over     bool
	listener net.Listener
	conns    sync.WaitGroup
	stop     chan struct{}
}

type message struct {
	Message
	queue string
}

type session struct {
	name  string
	conn  net.Conn
	taken map[uint64]*message
	over  bool
}

// Open reads the log in cfg.Dir and returns a server with the messages that were not
// consumed.
func Open(cfg Config) (*Server, error) {
	cfg.Durability = cmp.Or(cfg.Durability, Synced)
	cfg.Idle = cmp.Or(cfg.Idle, 10*time.Second)
	if !slices.Contains([]Durability{Synced, Written, Buffered}, cfg.Durability) {
		return nil, fmt.Errorf("unknown durability %q: known are synced, written, buffered", cfg.Durability)
	}
	s := &Server{cfg: cfg, ready: map[string][]*message{}, sessions: map[*session]bool{}, more: make(chan struct{}), stop: make(chan struct{})}
	for _, q := range cfg.Queues {
		s.ready[q] = nil
	}
	left := map[uint64]*message{}
	var err error
	s.log, err = openLog(cfg.Dir, cfg.Durability, func(e entry) {
		if e.Put != 0 {
			left[e.Put] = &message{Message{ID: e.Put, Body: e.Body}, e.Queue}
			s.last = max(s.last, e.Put) // those that came together are written in any order
		}
		delete(left, e.Accept)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range left {
		s.back(m)
	}
	return s, nil
}

// Serve answers clients until ctx ends, and writes what is not written yet. An error
// other than ctx's is one of the listener or the disk.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	s.mu.Lock()
	s.listener = l
	s.mu.Unlock()
	defer context.AfterFunc(ctx, s.end)()
	failed := make(chan error, 1)
	s.conns.Go(func() {
		tick := time.NewTicker(flushEvery)
		defer tick.Stop()
		for {
			select {
			case <-s.stop:
				return
			case <-tick.C:
			}
			if err := s.log.flush(); err != nil {
				failed <- err
				s.end()
				return
			}
		}
	})
	for {
		conn, err := l.Accept()
		if err != nil {
			s.end()
			s.conns.Wait()
			select {
			case err = <-failed:
			default:
			}
			if ctx.Err() != nil {
				err = ctx.Err()
			}
			return errors.Join(err, s.log.flush(), s.log.file.Close())
		}
		s.conns.Go(func() { s.serve(conn) })
	}
}

// Abort ends the server as SIGKILL would: what is in its memory only is gone.
func (s *Server) Abort() {
	_ = s.log.file.Close() // so that nothing more is written
	s.end()
	s.conns.Wait()
}

// end closes the listener and all connections.
func (s *Server) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return
	}
	s.over = true
	close(s.stop)
	if s.listener != nil {
		_ = s.listener.Close() // it ends Serve
	}
	for c := range s.sessions {
		_ = c.conn.Close() // it ends serve
	}
}

// serve answers one connection.
func (s *Server) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }() // it may be closed already
	c := &session{conn: conn, taken: map[uint64]*message{}}
	s.mu.Lock()
	s.sessions[c] = true
	if s.over {
		_ = conn.Close() // it came too late
	}
	s.mu.Unlock()
	defer s.leave(c)
	in, out := json.NewDecoder(conn), json.NewEncoder(conn)
	for {
		if err := conn.SetDeadline(time.Now().Add(s.cfg.Idle)); err != nil {
			return
		}
		var r Request
		if err := in.Decode(&r); err != nil {
			return
		}
		a, err := s.answer(c, r)
		if err != nil { // of the disk: whoever was not answered does not know, and the server ends
			s.end()
			return
		}
		if out.Encode(a) != nil || r.Do == "bye" {
			return
		}
	}
}

// answer does what a client asks for.
func (s *Server) answer(c *session, r Request) (Answer, error) {
	switch r.Do {
	case "hello":
		s.fence(c, r.Name)
		return Answer{}, nil
	case "put":
		return s.put(r)
	case "take":
		return s.take(c, r), nil
	case "accept", "release":
		return s.settle(c, r)
	case "count":
		return s.count(r.Queue), nil
	case "bye":
		s.leave(c)
		return Answer{}, nil
	}
	return Answer{Error: fmt.Sprintf("cannot %q", r.Do)}, nil
}

func (s *Server) put(r Request) (Answer, error) {
	s.mu.Lock()
	if _, ok := s.ready[r.Queue]; !ok {
		s.mu.Unlock()
		return Answer{Error: "no such queue"}, nil
	}
	s.last++
	m := &message{Message{ID: s.last, Body: r.Body}, r.Queue}
	s.mu.Unlock()
	if err := s.log.append(entry{Put: m.ID, Queue: m.queue, Body: m.Body}); err != nil {
		return Answer{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.back(m)
	return Answer{}, nil
}

// back makes a message ready, in the order of ids.
func (s *Server) back(m *message) {
	list := s.ready[m.queue]
	i, _ := slices.BinarySearchFunc(list, m.ID, func(m *message, id uint64) int { return cmp.Compare(m.ID, id) })
	s.ready[m.queue] = slices.Insert(list, i, m)
	close(s.more)
	s.more = make(chan struct{})
}

func (s *Server) take(c *session, r Request) Answer {
	late := time.NewTimer(time.Duration(r.WaitMS) * time.Millisecond)
	defer late.Stop()
	for last := false; ; {
		s.mu.Lock()
		list, more := s.ready[r.Queue], s.more
		n := min(len(list), r.Most)
		if n > 0 || last || c.over || s.over {
			var a Answer
			if c.over {
				n = 0
			}
			for _, m := range list[:n] {
				m.Times++
				c.taken[m.ID] = m
				a.Messages = append(a.Messages, m.Message)
			}
			s.ready[r.Queue] = list[n:]
			s.mu.Unlock()
			return a
		}
		s.mu.Unlock()
		select {
		case <-late.C:
			last = true
		case <-more:
		case <-s.stop:
		}
	}
}

func (s *Server) settle(c *session, r Request) (Answer, error) {
	s.mu.Lock()
	m, ok := c.taken[r.ID]
	delete(c.taken, r.ID)
	if ok && r.Do == "release" {
		s.back(m)
	}
	s.mu.Unlock()
	switch {
	case !ok:
		return Answer{Error: "this session does not hold it"}, nil
	case r.Do == "accept":
		return Answer{}, s.log.append(entry{Accept: r.ID})
	}
	return Answer{}, nil
}

func (s *Server) count(queue string) Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	list, ok := s.ready[queue]
	if !ok {
		return Answer{Error: "no such queue"}
	}
	a := Answer{Ready: len(list), Sessions: len(s.sessions)}
	for c := range s.sessions {
		for _, m := range c.taken {
			if m.queue == queue {
				a.Taken++
			}
		}
	}
	return a
}

// fence names a session and ends the older ones of that name: what they were not
// answered happens no more.
func (s *Server) fence(c *session, name string) {
	s.mu.Lock()
	var older []*session
	for o := range s.sessions {
		if o != c && o.name == name {
			older = append(older, o)
		}
	}
	c.name = name
	s.mu.Unlock()
	for _, o := range older {
		_ = o.conn.Close() // it may be closed already
		s.leave(o)
	}
}

// leave ends a session: what it took goes back.
func (s *Server) leave(c *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.over = true
	for _, m := range c.taken {
		s.back(m)
	}
	clear(c.taken)
	delete(s.sessions, c)
}
