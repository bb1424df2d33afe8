package render

import (
	"fmt"
	"slices"
	"text/template/parse"
)

// checker walks a tree and refuses every node that it does not know.
type checker struct {
	secrets map[string]bool // named ones
}

func (c *checker) list(l *parse.ListNode, depth int) error {
	if l == nil {
		return nil
	}
	if depth > maxDepth {
		return errTooDeep
	}
	for _, n := range l.Nodes {
		if err := c.node(n, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) node(n parse.Node, depth int) error {
	switch n := n.(type) {
	case *parse.TextNode, *parse.CommentNode:
		return nil
	case *parse.ActionNode:
		if err := c.pipe(n.Pipe, depth); err != nil {
			return err
		}
		toWrite(n)
		return nil
	case *parse.IfNode:
		return c.branch(&n.BranchNode, depth)
	case *parse.WithNode:
		return c.branch(&n.BranchNode, depth)
	}
	return fmt.Errorf("%.60s is not part of the language of templates: there are fields, if, with and the functions %v", n, functions)
}

// toWrite has what an action is to write go through writeFunction. What only sets a
// variable writes nothing.
func toWrite(n *parse.ActionNode) {
	if len(n.Pipe.Decl) > 0 {
		return
	}
	name := parse.NewIdentifier(writeFunction).SetPos(n.Pos)
	n.Pipe.Cmds = append(n.Pipe.Cmds, &parse.CommandNode{NodeType: parse.NodeCommand, Pos: n.Pos, Args: []parse.Node{name}})
}

func (c *checker) branch(b *parse.BranchNode, depth int) error {
	if err := c.pipe(b.Pipe, depth); err != nil {
		return err
	}
	if err := c.list(b.List, depth+1); err != nil {
		return err
	}
	return c.list(b.ElseList, depth+1)
}

func (c *checker) pipe(p *parse.PipeNode, depth int) error {
	if p == nil {
		return nil
	}
	if depth > maxDepth {
		return errTooDeep
	}
	for i, cmd := range p.Cmds {
		if err := c.command(cmd, i > 0, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// command checks one of a pipeline; fed: its last argument is what came before it.
func (c *checker) command(cmd *parse.CommandNode, fed bool, depth int) error {
	for i, arg := range cmd.Args {
		switch n := arg.(type) {
		case *parse.IdentifierNode:
			if !slices.Contains(functions, n.Ident) {
				return fmt.Errorf("there is no function %.60q in templates: there are %v", n.Ident, functions)
			}
			if n.Ident == secretFunction {
				if i > 0 || fed || len(cmd.Args) != 2 {
					return errSecretName
				}
				name, ok := cmd.Args[1].(*parse.StringNode)
				if !ok {
					return errSecretName
				}
				c.secrets[name.Text] = true
			}
		case *parse.PipeNode:
			if err := c.pipe(n, depth+1); err != nil {
				return err
			}
		case *parse.ChainNode:
			p, ok := n.Node.(*parse.PipeNode)
			if !ok {
				return fmt.Errorf("%.60s is not part of the language of templates", n)
			}
			if err := c.pipe(p, depth+1); err != nil {
				return err
			}
		case *parse.FieldNode, *parse.VariableNode, *parse.DotNode, *parse.StringNode, *parse.NumberNode, *parse.BoolNode:
		default:
			return fmt.Errorf("%.60s is not part of the language of templates", n)
		}
	}
	return nil
}

var errSecretName = fmt.Errorf(`a secret is named by a text, as in {{secret "name"}}`)
