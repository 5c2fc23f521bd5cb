package report

import (
	"encoding/xml"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/faultline-mq/faultline/checker"
)

type junitSuites struct {
	XMLName xml.Name     `xml:"testsuites"`
	Suites  []junitSuite `xml:"testsuite"`
}

type junitSuite struct {
	Name       string          `xml:"name,attr"`
	Tests      int             `xml:"tests,attr"`
	Failures   int             `xml:"failures,attr"`
	Errors     int             `xml:"errors,attr"`
	Skipped    int             `xml:"skipped,attr"`
	Time       string          `xml:"time,attr"` // seconds
	Timestamp  string          `xml:"timestamp,attr,omitempty"`
	Properties []junitProperty `xml:"properties>property"`
	Cases      []junitCase     `xml:"testcase"`
}

type junitProperty struct {
	Name  string `xml:"name,attr"`
	Value string `xml:"value,attr"`
}

type junitCase struct {
	Class   string        `xml:"classname,attr"`
	Name    string        `xml:"name,attr"`
	Time    string        `xml:"time,attr"`
	Failure *junitProblem `xml:"failure"`
	Error   *junitProblem `xml:"error"`
	Skipped *junitProblem `xml:"skipped"`
}

type junitProblem struct {
	Message string `xml:"message,attr"`
	Type    string `xml:"type,attr,omitempty"`
	Text    string `xml:",chardata"`
}

// WriteJUnit writes junit.xml: one test case per clause of the contract, and
// "decided", which says whether the run as a whole could decide anything. An
// invalid clause is a failure, a harness error an error; what is unknown or not
// promised is skipped, with the reason.
func (s Summary) WriteJUnit(w io.Writer) error {
	class := strings.Trim(strings.Join([]string{s.System, s.Scheme, s.Workload, s.FaultSpec}, "."), ".")
	suite := junitSuite{Name: "faultline." + class, Time: junitSeconds(s.DurationMS)}
	if !s.Started.IsZero() {
		suite.Timestamp = s.Started.UTC().Format("2006-01-02T15:04:05")
	}
	for _, p := range []junitProperty{
		{"seed", strconv.FormatUint(s.Seed, 10)},
		{"command", s.Command},
		{"replay", s.Replay},
		{"verdict", string(s.Verdict)},
		{"commit", s.Commit},
		{"notes", strings.Join(s.Notes, " ")},
	} {
		if p.Value != "" {
			suite.Properties = append(suite.Properties, p)
		}
	}
	add := func(name string, v checker.Verdict, message, text string) {
		c := junitCase{Class: class, Name: name, Time: "0"}
		switch v {
		case checker.Valid:
		case checker.Invalid:
			c.Failure = &junitProblem{Message: message, Type: string(v), Text: text}
			suite.Failures++
		case checker.Unknown:
			c.Skipped = &junitProblem{Message: message, Text: text}
			suite.Skipped++
		default:
			c.Error = &junitProblem{Message: message, Type: string(v), Text: text}
			suite.Errors++
		}
		suite.Cases = append(suite.Cases, c)
		suite.Tests++
	}
	switch s.Verdict {
	case checker.Unknown:
		var why []string
		for _, r := range s.WhyInconclusive {
			why = append(why, fmt.Sprintf("%s. To change: %s", r.Why, r.Change))
		}
		add("decided", checker.Unknown, s.Sentence, strings.Join(why, "\n"))
	case checker.Valid, checker.Invalid:
		add("decided", checker.Valid, "", "")
	default:
		add("decided", checker.HarnessError, s.Sentence, "")
	}
	for _, c := range s.Checks {
		if !c.Promised {
			add(c.Name, checker.Unknown, "not promised: "+c.Detail, "")
			continue
		}
		var lines []string
		for _, a := range c.Anomalies[:min(len(c.Anomalies), 100)] {
			lines = append(lines, a.Text)
		}
		if more := c.Count - len(lines); more > 0 && len(lines) > 0 {
			lines = append(lines, fmt.Sprintf("and %s more", count(more)))
		}
		if c.Remedy != "" {
			lines = append(lines, "To change: "+c.Remedy)
		}
		add(c.Name, c.Verdict, c.Detail, strings.Join(lines, "\n"))
	}
	return encodeJUnit(w, suite)
}

// encodeJUnit writes one suite.
func encodeJUnit(w io.Writer, suite junitSuite) error {
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	e := xml.NewEncoder(w)
	e.Indent("", "  ")
	if err := e.Encode(junitSuites{Suites: []junitSuite{suite}}); err != nil {
		return err
	}
	_, err := io.WriteString(w, "\n")
	return err
}

func junitSeconds(ms float64) string { return strconv.FormatFloat(ms/1000, 'f', 3, 64) }
