// Package schemes lists the replication schemes: adding one is a line here beside
// the scheme's own package and its page.
package schemes

import (
	"fmt"
	"strings"

	"github.com/faultline-mq/faultline/broker/options"
	"github.com/faultline-mq/faultline/broker/scheme"
	"github.com/faultline-mq/faultline/broker/scheme/classic"
	"github.com/faultline-mq/faultline/broker/scheme/isr"
	"github.com/faultline-mq/faultline/broker/scheme/mirrored"
	"github.com/faultline-mq/faultline/broker/scheme/quorum"
	"github.com/faultline-mq/faultline/broker/scheme/shared"
	"github.com/faultline-mq/faultline/broker/scheme/single"
	"github.com/faultline-mq/faultline/broker/scheme/standby"
)

// known are the schemes, in the order in which they are listed.
var known = []scheme.Definition{
	classic.Definition(),
	isr.Definition(),
	shared.Definition(),
	mirrored.Definition(),
	single.Definition(),
	quorum.Definition(),
	standby.Definition(),
}

// own are their options.
var own = func() (all []options.Option) {
	for _, d := range known {
		all = append(all, d.Options...)
	}
	return all
}()

// Known returns the definitions of all schemes. They must not be changed.
func Known() []scheme.Definition { return known }

// Names returns the names of all schemes.
func Names() []string {
	var names []string
	for _, d := range known {
		names = append(names, d.Name)
	}
	return names
}

// Lookup returns a scheme by name. The error lists those that there are.
func Lookup(name string) (scheme.Definition, error) {
	for _, d := range known {
		if d.Name == name {
			return d, nil
		}
	}
	return scheme.Definition{}, fmt.Errorf("unknown scheme %q; known schemes: %s", name, strings.Join(Names(), ", "))
}

// Options returns every option: the common ones and those of all schemes, sorted by name.
func Options() []options.Option { return options.All(own...) }

// Resolve checks what was set against all options and fills in defaults
// (options.Resolve), and looks for contradictions between a scheme's options.
func Resolve(set map[string]string) (options.Values, error) {
	v, err := options.Resolve(set, own...)
	if err != nil {
		return options.Values{}, err
	}
	for _, d := range known {
		if d.Check == nil {
			continue
		}
		if err := d.Check(v); err != nil {
			return options.Values{}, err
		}
	}
	return v, nil
}
