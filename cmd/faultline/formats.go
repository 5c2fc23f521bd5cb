package main

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// The formats of files with histories, and what else they may be called.
const (
	formatHistory     = "history"
	formatJSONL       = "jsonl"
	formatKafka       = "jepsen-kafka"
	formatQueue       = "jepsen-queue"
	formatRegister    = "jepsen-register"
	formatPorcupineKV = "porcupine-kv"
	formatEtcdLog     = "porcupine-etcd"
)

// peeked is how many bytes of a file its format is told from.
const peeked = 256 << 10

// formatOf tells a format from the beginning of a file; "" where that is not clear.
func formatOf(begin []byte) string {
	trimmed := bytes.TrimSpace(begin)
	switch {
	case bytes.HasPrefix(begin, []byte("FLHIST\x00")):
		return formatHistory
	case bytes.HasPrefix(trimmed, []byte(`{"`)):
		return formatJSONL
	case etcdLine.Match(begin):
		return formatEtcdLog
	case !bytes.HasPrefix(trimmed, []byte("{")) && !bytes.HasPrefix(trimmed, []byte("[")):
		return ""
	}
	keyed := bytes.Contains(begin, []byte(":key "))
	for _, f := range function.FindAllSubmatch(begin, -1) {
		switch string(f[1]) {
		case "send", "poll", "txn", "assign", "subscribe":
			return formatKafka
		case "enqueue", "dequeue", "drain":
			return formatQueue
		case "read", "write", "cas":
			return formatRegister
		case "get", "put", "append":
			if keyed {
				return formatPorcupineKV
			}
		}
	}
	return ""
}

var (
	etcdLine = regexp.MustCompile(`(?m)^INFO\s+jepsen\.util\s+-\s+\d+\s+:`)
	function = regexp.MustCompile(`:f\s+:([a-z-]+)`)
)

// openHistory opens a file, or standard input for "-", and tells its format where
// none is given: otherwise where the content does not, if that is not "".
func openHistory(name, format, otherwise string, known ...string) (in io.ReadCloser, told string, err error) {
	file := os.Stdin
	if name != "-" {
		if file, err = os.Open(name); err != nil {
			return nil, "", badArguments(err)
		}
	}
	b := bufio.NewReaderSize(file, peeked)
	begin, err := b.Peek(peeked)
	switch {
	case err != nil && !errors.Is(err, io.EOF):
		err = badArguments(err)
	case cmp.Or(format, formatOf(begin), otherwise) == "":
		err = badArguments(fmt.Errorf("the format of %s is not told by its content: --format takes %s", name, strings.Join(known, ", ")))
	default:
		return struct {
			io.Reader
			io.Closer
		}{b, file}, cmp.Or(format, formatOf(begin), otherwise), nil
	}
	return nil, "", errors.Join(err, file.Close())
}
