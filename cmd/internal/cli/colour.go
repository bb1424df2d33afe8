package cli

import (
	"os"

	"golang.org/x/term"
)

// Colours of the terminal's own palette, by ECMA-48's SGR.
const (
	red    = "31"
	yellow = "33"
	green  = "32"
	bold   = "1"
)

// coloured is text in a colour, where Stdout is a terminal that shows some: not with
// NO_COLOR set to anything (https://no-color.org), nor where TERM is "dumb".
func (a *app) coloured(colour, text string) string {
	if !a.colours() {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}

func (a *app) colours() bool {
	f, ok := a.Stdout.(*os.File)
	return ok && a.Getenv("NO_COLOR") == "" && a.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}
