// Command testnode stands for a system under test: it answers TCP connections
// on its ports, sends a byte to each peer's port every 20 ms, writes events and
// keeps a count of its starts in its data folder, where it also writes a byte
// every 20 ms and syncs nothing. At SIGUSR1 it takes 256 MiB of memory.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// testnode DATADIR PORT[,PORT...] PEER:PORT[,PEER:PORT...]
func main() {
	starts, _ := os.ReadFile(os.Args[1] + "/starts")
	found := len(starts)
	starts = append(starts, 'x')
	if err := os.WriteFile(os.Args[1]+"/starts", starts, 0o600); err != nil {
		panic(err)
	}
	go tick(os.Args[1] + "/ticks")
	for _, port := range strings.Split(os.Args[2], ",") {
		l, err := net.Listen("tcp4", ":"+port)
		if err != nil {
			panic(err)
		}
		go serve(l)
	}
	if len(os.Args) > 3 {
		for _, peer := range strings.Split(os.Args[3], ",") {
			go send(peer)
		}
	}
	grow := make(chan os.Signal, 1)
	signal.Notify(grow, syscall.SIGUSR1)
	go func() {
		<-grow
		hog := make([]byte, 256<<20)
		for i := range hog {
			hog[i] = 1
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	host, _ := os.Hostname()
	fmt.Printf(`{"event":"start","incarnation":%d,"seq":1,"wall":%d,"offset":%d,"detail":"%s"}`+"\n", len(starts), time.Now().UnixNano(), found, host)
	fmt.Println("a line of log")
	fmt.Fprintln(os.Stderr, "a line of errors")
	<-stop
	if os.Getenv("STUBBORN") == "" {
		fmt.Printf(`{"event":"stop","incarnation":%d,"seq":2,"wall":%d}`+"\n", len(starts), time.Now().UnixNano())
		return
	}
	select {}
}

// tick writes on, whatever the disk answers.
func tick(name string) {
	for ; ; time.Sleep(20 * time.Millisecond) {
		if f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err == nil {
			_, _ = f.Write([]byte{1})
			_ = f.Close()
		}
	}
}

func serve(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(conn, conn) }()
	}
}

func send(peer string) {
	for {
		conn, err := net.DialTimeout("tcp4", peer, time.Second)
		if err != nil {
			time.Sleep(20 * time.Millisecond)
			continue
		}
		go func() { _, _ = io.Copy(io.Discard, conn) }()
		for err == nil {
			_ = conn.SetWriteDeadline(time.Now().Add(time.Second))
			_, err = conn.Write([]byte{1})
			time.Sleep(20 * time.Millisecond)
		}
		_ = conn.Close()
	}
}
