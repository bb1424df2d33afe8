package report

import (
	"encoding/xml"
	"io"
)

// markup writes an XML document piece by piece. The first error ends it, and close
// tells it.
type markup struct {
	e    *xml.Encoder
	open []xml.EndElement
	err  error
}

func newMarkup(w io.Writer) *markup {
	m := &markup{e: xml.NewEncoder(w)}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		m.err = err
	}
	m.e.Indent("", "  ")
	return m
}

// begin opens an element; attributes are names and values in turn.
func (m *markup) begin(name string, attributes ...string) {
	start := xml.StartElement{Name: xml.Name{Local: name}}
	for i := 0; i+1 < len(attributes); i += 2 {
		start.Attr = append(start.Attr, xml.Attr{Name: xml.Name{Local: attributes[i]}, Value: attributes[i+1]})
	}
	m.token(start)
	m.open = append(m.open, start.End())
}

// end closes the element that was opened last.
func (m *markup) end() {
	m.token(m.open[len(m.open)-1])
	m.open = m.open[:len(m.open)-1]
}

// text writes an element that holds a text.
func (m *markup) text(name, text string, attributes ...string) {
	m.begin(name, attributes...)
	m.token(xml.CharData(text))
	m.end()
}

func (m *markup) token(t xml.Token) {
	if m.err == nil {
		m.err = m.e.EncodeToken(t)
	}
}

// close ends the document.
func (m *markup) close() error {
	for len(m.open) > 0 {
		m.end()
	}
	if m.err != nil {
		return m.err
	}
	return m.e.Close()
}
